from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg

from prfaas.bus.control import ControlBus
from prfaas.contracts import subjects
from prfaas.contracts.to_probe import TrainPart
from prfaas.contracts.wire import BadMessageError, encode
from prfaas_bandwidth_probe.train_sink import MAX_PARTS, REMEMBERED_TRAINS, Arrival, TrainSink, tail_bytes_per_s

PART_BYTES = 10_000
RATE = 1e6


def steady(parts: int = 40, start_s: float = 5.0) -> list[float]:
    return [start_s + number * PART_BYTES / RATE for number in range(parts)]


def rate(times_s: list[float]) -> float:
    return tail_bytes_per_s([Arrival(seconds, PART_BYTES) for seconds in times_s])


def test_what_comes_evenly_comes_at_its_rate_whatever_was_before_the_middle() -> None:
    assert rate(steady()) == pytest.approx(RATE)
    assert rate([seconds / 2 for seconds in steady()[:19]] + steady()[19:]) == pytest.approx(RATE)


@given(st.lists(st.tuples(st.integers(0, 38), st.floats(0, 0.03)), max_size=3))
def test_parts_that_were_held_up_and_come_at_once_do_not_make_it_look_faster(stalls: list[tuple[int, float]]) -> None:
    """Together for less than a quarter of the train, and not the last part itself: that would be slower."""
    times_s = steady()
    for number, stall_s in stalls:
        until_s = times_s[number] + stall_s
        times_s = [max(seconds, until_s) if index >= number else seconds for index, seconds in enumerate(times_s)]
    assert rate(times_s) <= RATE * 1.001


@given(st.integers(1, 6))
def test_parts_that_come_in_clusters_do_not_either(cluster: int) -> None:
    times_s = steady(48)
    times_s = [times_s[min(index // cluster * cluster + cluster - 1, 47)] for index in range(48)]
    assert rate(times_s) == pytest.approx(RATE, rel=0.15)


def test_all_at_once_says_nothing() -> None:
    assert rate([1.0] * 20) == 0.0
    assert rate([1.0]) == 0.0


class _Silent:
    """A bulk bus that nothing is published on."""


def part(train_id: str, source: str = "far") -> Msg:
    return Msg(
        _client=Client(), subject=subjects.probe_train("home", source), data=encode(TrainPart(train_id=train_id, padding=b"x"))
    )


async def test_trains_without_an_end_are_forgotten() -> None:
    sink = TrainSink(cast(ControlBus, _Silent()))
    for number in range(3 * REMEMBERED_TRAINS):
        await sink.receive(part(f"t{number}"))
    (trains,) = sink._trains.values()
    assert len(trains) == REMEMBERED_TRAINS
    with pytest.raises(BadMessageError, match="has more than 4096 parts"):
        for _ in range(MAX_PARTS + 1):
            await sink.receive(part("endless"))
    assert "endless" not in trains
    for data in (b"", b"\x91" * 100_000, b"\xff"):
        with pytest.raises(BadMessageError):
            await sink.receive(Msg(_client=Client(), subject="train", data=data))


async def test_trains_of_one_site_push_out_none_of_another() -> None:
    sink = TrainSink(cast(ControlBus, _Silent()))
    await sink.receive(part("slow"))
    for number in range(2 * REMEMBERED_TRAINS):
        await sink.receive(part(f"t{number}", source="another"))
    of_far, of_another = sink._trains.values()
    assert list(of_far) == ["slow"]
    assert len(of_another) == REMEMBERED_TRAINS
