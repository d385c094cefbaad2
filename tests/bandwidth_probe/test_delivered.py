import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas_bandwidth_probe.delivered import DeliveredTogether


@given(st.lists(st.floats(1e3, 1e8), min_size=1, max_size=6), st.floats(0.02, 0.5))
def test_steady_workers_add_up(rates: list[float], every_s: float) -> None:
    together, found = DeliveredTogether(), []
    for step in range(200):
        for number, rate in enumerate(rates):
            now_s = (step + number / len(rates)) * every_s
            rate_now = together.tell(f"w{number}", int(rate * now_s), now_s)
            found += [rate_now] if rate_now is not None else []
    assert found
    # Before a worker tells, its bytes of a stretch are not known; after, they are not counted twice.
    assert max(found) <= sum(rates) * 1.001 + 2 * len(rates)
    if every_s <= 0.1:
        assert found[-1] >= 0.85 * sum(rates)


def test_a_worker_that_begins_again_or_was_silent_adds_nothing_that_it_sent_before() -> None:
    together = DeliveredTogether()
    assert together.tell("a", 1 << 40, 0.0) is None
    assert together.tell("a", (1 << 40) + 1000, 0.5) is None
    assert together.tell("a", 500, 1.0) == pytest.approx(1000.0), "another process of the same name"
    assert together.tell("a", 1 << 40, 9.0) is None


def test_the_latest_rate_counts_for_some_seconds_only() -> None:
    together = DeliveredTogether()
    assert together.latest_bytes_per_s(0.0) == 0.0, "nothing was said yet"
    together.tell("a", 0, 0.0)
    together.tell("a", 1000, 0.5)
    together.tell("a", 2000, 1.0)
    assert together.latest_bytes_per_s(1.5) == pytest.approx(2000.0)
    assert together.latest_bytes_per_s(9.0) == 0.0
