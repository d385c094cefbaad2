"""Losses of gateways, by what they answer."""

import hypothesis.strategies as st
from hypothesis import given

from prfaas_decode_worker.gateways import ABSENT_S, SILENT_S, GatewayProcess, Gateways

GATEWAY = GatewayProcess("gateway", "i")


def test_one_that_connects_again_in_time_is_kept() -> None:
    gateways = Gateways()
    assert not gateways.handle_absence(GATEWAY, 0.0)
    assert not gateways.handle_absence(GATEWAY, ABSENT_S - 0.1)
    gateways.handle_answer(GATEWAY, ABSENT_S)
    assert not gateways.handle_absence(GATEWAY, 10.0), "the absence counts from now"
    assert gateways.handle_absence(GATEWAY, 10.0 + ABSENT_S)


def test_a_stopped_one_is_waited_for_longer_and_one_that_never_answers_for_ever() -> None:
    gateways = Gateways()
    for now_s in (0.0, 100.0, 1000.0):
        assert not gateways.handle_silence(GATEWAY, now_s)
    gateways.handle_answer(GATEWAY, 1000.0)
    assert not gateways.handle_silence(GATEWAY, 1000.0 + SILENT_S - 0.1)
    assert gateways.handle_silence(GATEWAY, 1000.0 + SILENT_S)


def test_what_was_known_of_a_gateway_without_requests_is_forgotten() -> None:
    gateways = Gateways()
    gateways.handle_absence(GATEWAY, 0.0)
    gateways.forget_others([])
    assert not gateways.handle_absence(GATEWAY, 100.0)


@given(st.lists(st.tuples(st.floats(0, 2), st.sampled_from(["answer", "absence", "silence"])), max_size=50))
def test_a_gateway_that_answers_often_enough_is_never_lost(steps: list[tuple[float, str]]) -> None:
    gateways, now_s, answered_at = Gateways(), 0.0, 0.0
    gateways.handle_answer(GATEWAY, 0.0)
    for after_s, what in steps:
        now_s += after_s
        if what == "answer" or now_s - answered_at >= ABSENT_S:
            answered_at = now_s
            gateways.handle_answer(GATEWAY, now_s)
        else:
            handle = gateways.handle_absence if what == "absence" else gateways.handle_silence
            assert not handle(GATEWAY, now_s)
