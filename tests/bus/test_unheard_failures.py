"""Failures are told again until they are heard or of no use, and no more than a bound are kept."""

from hypothesis import given
from hypothesis import strategies as st

from prfaas.bus.unheard_failures import FIRST_REPEAT_S, MAX_UNHEARD, UnheardFailures
from prfaas.contracts.to_decode import PrefillFailed
from prfaas.contracts.to_prefill import CancelPrefill

HOME = "home"


def failed(transfer_id: str, attempt: int = 1) -> PrefillFailed:
    return PrefillFailed(transfer_id=transfer_id, attempt=attempt, nuid="n", worker="p", code="timeout", message="")


def repeats(unheard: UnheardFailures, until_s: float) -> list[tuple[float, str, int]]:
    """Returns (moment, transfer, attempt) of all repeats, looked for every quarter of a second."""
    moments = [quarter / 4 for quarter in range(int(4 * until_s))]
    return [(now_s, told.transfer_id, told.attempt) for now_s in moments for _, told in unheard.take_due(now_s)]


def test_a_failure_is_told_again_and_again_at_growing_intervals_while_it_matters() -> None:
    unheard = UnheardFailures()
    unheard.handle_told(HOME, "s", failed("t"), until_at=10.0, now_s=0.0)
    assert [now_s for now_s, _, _ in repeats(unheard, 60.0)] == [1.0, 3.0, 7.0]
    assert len(unheard) == 0


def test_a_cancel_ends_the_repeats_of_its_attempt_and_those_before_it_at_its_own_site_only() -> None:
    unheard = UnheardFailures()
    for attempt in (1, 2, 3):
        unheard.handle_told(HOME, "s", failed("t", attempt), until_at=10.0, now_s=0.0)
    unheard.handle_told("elsewhere", "s", failed("t"), until_at=10.0, now_s=0.0)
    unheard.handle_told(HOME, "s", failed("other"), until_at=10.0, now_s=0.0)
    unheard.handle_cancel(HOME, CancelPrefill(transfer_id="t", attempt=2))
    assert sorted(repeats(unheard, 1.25)) == [(1.0, "other", 1), (1.0, "t", 1), (1.0, "t", 3)]


def test_a_failure_whose_attempt_is_about_to_end_is_not_kept() -> None:
    unheard = UnheardFailures()
    unheard.handle_told(HOME, "s", failed("t"), until_at=FIRST_REPEAT_S, now_s=0.0)
    assert len(unheard) == 0


def test_the_oldest_is_told_no_more_when_there_are_too_many() -> None:
    unheard = UnheardFailures()
    for number in range(MAX_UNHEARD + 1):
        unheard.handle_told(HOME, "s", failed(f"t{number}"), until_at=1e9, now_s=0.0)
    unheard.validate()
    assert {transfer for _, transfer, _ in repeats(unheard, 1.25)} == {f"t{number}" for number in range(1, MAX_UNHEARD + 1)}


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(("told", "cancel", "look")), st.integers(0, 3), st.integers(1, 3), st.floats(0.0, 3.0)),
        max_size=60,
    )
)
def test_what_was_cancelled_or_is_over_is_never_repeated(steps: list[tuple[str, int, int, float]]) -> None:
    unheard, now_s = UnheardFailures(), 0.0
    live: dict[tuple[str, int], float] = {}
    for step, number, attempt, passed_s in steps:
        now_s += passed_s
        transfer = f"t{number}"
        if step == "told":
            unheard.handle_told(HOME, "s", failed(transfer, attempt), now_s + 5.0, now_s)
            live[transfer, attempt] = now_s + 5.0
        elif step == "cancel":
            unheard.handle_cancel(HOME, CancelPrefill(transfer_id=transfer, attempt=attempt))
            live = {key: until for key, until in live.items() if key[0] != transfer or key[1] > attempt}
        else:
            for _, told in unheard.take_due(now_s):
                assert live[told.transfer_id, told.attempt] > now_s
        unheard.validate()
    unheard.take_due(now_s + 6.0)
    assert len(unheard) == 0
