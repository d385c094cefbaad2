"""Waterfalls: each stage between those before and after it, whatever other machines' clocks say."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.contracts.wire import encode
from prfaas_gateway.console.waterfall import stages_of
from tests.gateway.console.seen import answered, seen


def test_the_stages_of_an_offloaded_request_in_their_order_and_times() -> None:
    stages = {stage.name: stage for stage in stages_of(answered(), "home", 999.0)}
    assert {name: (round(stage.start_s, 3), round(stage.end_s, 3)) for name, stage in stages.items()} == {
        "read and tokenize": (0.0, 0.1),
        "placement": (0.1, 0.2),
        "queue": (0.8, 1.4),
        "prefill": (1.4, 3.8),
        "KV": (2.0, 4.0),
        "first token": (4.0, 4.25),
        "decode": (4.25, 5.0),
    }
    assert stages["prefill"].marks == pytest.approx((2.6, 3.8))
    assert stages["KV"].marks == pytest.approx((2.5, 4.0))
    assert (stages["KV"].place, stages["prefill"].place, stages["decode"].place) == ("far → home", "far", "d0")
    assert stages["prefill"].detail == "800 tokens computed, 200 cached"
    assert stages["placement"].detail == "1000 > 500"


def test_a_request_under_way_has_the_stages_that_it_has_reached() -> None:
    request = seen()
    assert [(stage.name, stage.end_s) for stage in stages_of(request, "home", 103.0)] == [("read and tokenize", 3.0)]
    request.prompt_tokens, request.tokenized_at = 9, 100.5
    assert [stage.name for stage in stages_of(request, "home", 103.0)] == ["read and tokenize", "placement"]
    request.placed("far", "why", "d0", 101.0)
    last = stages_of(request, "home", 103.0)[-1]
    assert (last.name, last.start_s, last.end_s, last.detail) == ("queue, prefill, KV", 1.0, 3.0, "under way")


@given(*[st.floats(0, 1e9)] * 4, st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1e9)), max_size=64))
def test_no_word_of_another_machine_gives_a_stage_outside_of_the_request(
    queue_s: float, prefill_s: float, residual_s: float, transfer_s: float, marks: list[tuple[float, float]]
) -> None:
    request = answered()
    request.queue_s, request.prefill_s, request.residual_s, request.transfer_s = queue_s, prefill_s, residual_s, transfer_s
    request.packed_chunks = request.packed_arrival = encode(marks)
    for stage in stages_of(request, "home", 999.0):
        assert 0.0 <= stage.start_s <= stage.end_s <= 5.0
        assert all(stage.start_s - 1e-6 <= mark <= stage.end_s + 1e-6 for mark in stage.marks)
        msgspec.json.encode(stage)
