import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.wan import LinkShape
from prfaas.wan.shaping import Lane, Stream

sizes = st.lists(st.integers(1, 256 << 10), min_size=1, max_size=50)


def test_a_saturated_lane_runs_at_its_rate_plus_one_way_delay() -> None:
    lane, stream = Lane(LinkShape(rate_mbit=100, rtt_ms=20)), Stream()
    arrivals = [lane.admit(0.0, 12_500, stream) for _ in range(1000)]  # 1 ms each at 100 Mbit/s
    assert arrivals[0] == pytest.approx(0.011)
    assert arrivals[-1] == pytest.approx(1.010)


@given(sizes, st.floats(0, 50), st.floats(0, 0.5))
def test_order_is_kept_within_a_stream(pieces: list[int], jitter_ms: float, loss: float) -> None:
    lane = Lane(LinkShape(rate_mbit=100, rtt_ms=20, jitter_ms=jitter_ms, loss=loss))
    streams = [Stream(), Stream()]
    arrivals: list[list[float]] = [[], []]
    for at, size in enumerate(pieces):
        arrivals[at % 2].append(lane.admit(at * 1e-4, size, streams[at % 2]))
    assert all(own == sorted(own) for own in arrivals)


@given(sizes, st.floats(1, 1000))
def test_two_streams_share_one_rate(pieces: list[int], rate_mbit: float) -> None:
    lane, streams = Lane(LinkShape(rate_mbit=rate_mbit)), [Stream(), Stream()]
    last = max(lane.admit(0.0, size, streams[at % 2]) for at, size in enumerate(pieces))
    assert last == pytest.approx(sum(pieces) * 8 / (rate_mbit * 1e6))


def test_loss_stalls_its_own_stream_only() -> None:
    lane, unlucky, other = Lane(LinkShape(rtt_ms=20, loss=0.999)), Stream(), Stream()
    assert lane.admit(0.0, 100_000, unlucky) == pytest.approx(0.030)
    lane.shape = LinkShape(rtt_ms=20)
    assert lane.admit(0.001, 100, other) == pytest.approx(0.011)
    assert lane.admit(0.001, 100, unlucky) == pytest.approx(0.030)


def test_the_queue_fills_and_drains() -> None:
    lane, stream = Lane(LinkShape(rate_mbit=8, queue_ms=10)), Stream()  # 1 byte per microsecond
    lane.admit(0.0, 10_000, stream)
    assert not lane.is_full(0.0)
    lane.admit(0.0, 1, stream)
    assert lane.is_full(0.0)
    assert lane.room_at_s() == pytest.approx(0.005, abs=1e-5)
    assert lane.backlog_s(1.0) == 0


def test_a_halt_freezes_link_time() -> None:
    lane = Lane(LinkShape(rate_mbit=8))
    lane.halt(5.0)
    assert lane.link_time_s(9.0) == 5.0
    lane.go_on(9.0)
    assert lane.link_time_s(10.0) == 6.0
    assert lane.clock_time_s(6.0) == 10.0


@pytest.mark.parametrize("wrong", [{"rate_mbit": 0}, {"rtt_ms": -1}, {"jitter_ms": -1}, {"loss": 1}, {"queue_ms": 0}])
def test_senseless_shapes_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)).replace("_", "-")):
        LinkShape(**wrong)
