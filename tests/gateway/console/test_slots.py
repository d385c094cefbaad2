"""Outcomes and times to first token in slots of some seconds."""

import statistics

from hypothesis import given
from hypothesis import strategies as st

from prfaas.console.schema import SLOT_S, SLOTS
from prfaas_gateway.console.slots import Slots


@given(st.lists(st.floats(0.001, 500.0), min_size=1, max_size=200))
def test_percentiles_are_within_five_percent(ttfts_s: list[float]) -> None:
    slots = Slots()
    for ttft_s in ttfts_s:
        slots.first_token(ttft_s, 1000.0)
    (item,) = slots.items(1000.0).values()
    exact_s = statistics.median_low(ttfts_s)
    assert item.ttft_count == len(ttfts_s) and item.ttft_p50_s is not None and item.ttft_p90_s is not None
    assert abs(item.ttft_p50_s / exact_s - 1) < 0.05
    assert item.ttft_p90_s >= item.ttft_p50_s


@given(st.lists(st.tuples(st.sampled_from(["offloaded", "failed"]), st.floats(0, 1e5)), max_size=300))
def test_any_clock_leaves_no_more_than_a_quarter_of_an_hour(ends: list[tuple[str, float]]) -> None:
    slots = Slots()
    for became, unix_s in ends:
        slots.ended(became, unix_s)
        slots.validate()


def test_slots_are_numbered_by_the_clock_and_forgotten_after_a_quarter_of_an_hour() -> None:
    slots = Slots()
    slots.ended("offloaded", 100.0)
    slots.ended("offloaded", 109.9)
    slots.ended("failed", 110.0)
    assert {number: item.ended for number, item in slots.items(115.0).items()} == {"10": {"offloaded": 2}, "11": {"failed": 1}}
    assert list(slots.items(100.0 + SLOTS * SLOT_S)) == ["11"]
    assert slots.items(1e6) == {}
