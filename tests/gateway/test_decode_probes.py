"""Answers and silences of decode workers, and what a gateway concludes from them."""

from prfaas.contracts.to_gateway import Running
from prfaas_gateway.decode_probes import ABSENT_S, LOST_AFTER_ANSWERS, SILENT_S, DecodeProbes
from prfaas_gateway.decode_workers import DecodeWorker

WORKER = DecodeWorker("d0", "i1")


def says(probes: DecodeProbes, out: dict[str, int], taken: dict[str, int], asked: tuple[str, ...] = ("r",)) -> list[str]:
    return probes.handle_answer(WORKER, Running(incarnation="i1", events=out), dict.fromkeys(asked, 0), taken, 0.0)


def test_a_worker_without_a_subscription_is_gone_after_a_while_and_not_when_it_dials_again() -> None:
    probes = DecodeProbes()
    assert not probes.handle_absence(WORKER, 10.0)
    assert not probes.handle_absence(WORKER, 10.0 + ABSENT_S - 0.1)
    says(probes, {}, {})
    assert not probes.handle_absence(WORKER, 10.0 + ABSENT_S)
    assert probes.handle_absence(WORKER, 10.0 + 2 * ABSENT_S)


def test_a_silent_worker_is_left_only_for_another_one() -> None:
    probes = DecodeProbes()
    assert not probes.handle_silence(WORKER, 0.0, 0.5, others=True)
    assert not probes.handle_silence(WORKER, SILENT_S - 0.6, SILENT_S - 0.1, others=True)
    assert not probes.handle_silence(WORKER, SILENT_S - 0.5, SILENT_S, others=False)
    assert probes.handle_silence(WORKER, SILENT_S - 0.5, SILENT_S, others=True)


def test_a_gateway_that_stood_still_does_not_hold_it_against_the_worker() -> None:
    probes = DecodeProbes()
    assert not probes.handle_silence(WORKER, 0.0, 30.0, others=True)
    assert not probes.handle_silence(WORKER, 30.5, 30.0 + SILENT_S - 0.1, others=True)
    assert probes.handle_silence(WORKER, 30.0 + SILENT_S - 0.5, 30.0 + SILENT_S, others=True)


def test_events_on_their_way_are_waited_for() -> None:
    probes = DecodeProbes()
    assert says(probes, {"r": 5}, {"r": 3}) == []
    assert says(probes, {"r": 9}, {"r": 5}) == [], "what was out then has come"
    assert says(probes, {"r": 9}, {"r": 9}) == []


def test_an_event_that_is_out_and_does_not_come_is_lost() -> None:
    probes = DecodeProbes()
    answers = [says(probes, {"r": 5}, {"r": 3}) for _ in range(LOST_AFTER_ANSWERS)]
    assert answers == [[]] * (LOST_AFTER_ANSWERS - 1) + [["r"]]
    assert says(probes, {"r": 5}, {"r": 3}) == [], "told once"


def test_a_worker_that_is_only_slow_to_send_loses_nothing() -> None:
    probes = DecodeProbes()
    for taken in range(20):
        assert says(probes, {"r": 50}, {"r": taken}) == []


def test_the_end_of_an_answer_may_be_lost_too() -> None:
    probes = DecodeProbes()
    assert says(probes, {}, {"r": 3}) == []
    assert says(probes, {}, {}) == [], "it ended meanwhile"
    answers = [says(probes, {}, {"r": 3}) for _ in range(LOST_AFTER_ANSWERS)]
    assert answers[-1] == ["r"]


def test_a_request_that_was_accepted_after_the_question_is_not_judged() -> None:
    probes = DecodeProbes()
    for _ in range(LOST_AFTER_ANSWERS):
        assert says(probes, {}, {"r": 0}, asked=()) == []


def test_another_process_under_the_name_says_nothing() -> None:
    probes = DecodeProbes()
    for _ in range(LOST_AFTER_ANSWERS):
        assert probes.handle_answer(WORKER, Running(incarnation="i2"), {"r": 0}, {"r": 0}, 0.0) == []


def test_a_worker_that_was_slow_to_answer_is_waited_for_longer() -> None:
    probes = DecodeProbes()
    for _ in range(4):
        probes.patience_with(WORKER).handle_answer(1.5)
    assert not probes.handle_silence(WORKER, 0.0, 0.5, others=True)
    assert not probes.handle_silence(WORKER, SILENT_S, SILENT_S + 1.5, others=True)
    probes.forget_others([])
    assert not probes.handle_silence(WORKER, 0.0, 0.5, others=True)
    assert probes.handle_silence(WORKER, SILENT_S - 0.5, SILENT_S, others=True), "its next requests find it unknown"


def test_what_is_lost_is_asked_for_again_and_what_is_on_its_way_is_not() -> None:
    probes = DecodeProbes()
    assert probes.resend({"r": 3, "s": 7}, gaps=()) == {}
    assert probes.resend({"r": 3, "s": 7}, gaps={"s", "t"}) == {"s": 7}, "a later event has come, and t is another worker's"
    assert says(probes, {"r": 5}, {"r": 3}) == []
    assert probes.resend({"r": 3}, gaps=()) == {"r": 3}
    assert probes.resend({"r": 4}, gaps=()) == {}, "another event has come meanwhile"
    assert says(probes, {"r": 5}, {"r": 5}) == []
    assert probes.resend({"r": 5}, gaps=()) == {}
