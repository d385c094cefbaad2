from load.chaos.faults import Fault
from load.chaos.random_faults import Injection
from load.chaos.soak_verdict import SETTLE_S, judge, set_recovered
from load.chaos.steps import Step
from load.chaos.traffic import Ended

KILLED_GATEWAY = Injection(stack="emulated", fault=Fault.KILL, step=Step.PLACED, at=100.0, over_at=101.0)
STALL = Injection(stack="emulated", fault=Fault.STALL, step=Step.MANIFEST, at=100.0, over_at=105.0)


def ended(code: str, begun_at: float, ended_at: float) -> Ended:
    return Ended(kind="completions stream kept", begun_at=begun_at, ended_at=ended_at, code=code)


def test_an_error_is_allowed_only_while_the_fault_is_there_that_allows_it() -> None:
    torn = ended("connection", 99.0, 100.5)
    assert judge([torn], [KILLED_GATEWAY], 0).allowed_errors == 1
    assert judge([torn], [STALL], 0).lost_requests == 1
    assert judge([ended("connection", 90.0, 99.0)], [KILLED_GATEWAY], 0).lost_requests == 1
    late = ended("connection", 101.0 + SETTLE_S + 1.0, 130.0)
    assert judge([late], [KILLED_GATEWAY], 0).lost_requests == 1


def test_wrong_tokens_and_hangs_are_allowed_by_no_fault() -> None:
    verdict = judge([ended("wrong_tokens", 100.0, 101.0), ended("hang", 100.0, 190.0)], [KILLED_GATEWAY], 0)
    assert (verdict.wrong_tokens, verdict.hangs, verdict.allowed_errors, verdict.right) == (1, 1, 0, 0)


def test_recovery_is_the_first_right_answer_to_a_request_asked_after_the_fault() -> None:
    injection = Injection(stack="emulated", fault=Fault.STOP, step=Step.DECODING, at=100.0, over_at=106.0)
    never = Injection(stack="emulated", fault=Fault.STOP, step=Step.DECODING)
    answers = [ended("right", 99.0, 100.5), ended("connection", 100.1, 100.2), ended("right", 101.0, 103.5)]
    set_recovered([injection, never], answers)
    assert injection.recovered_s == 3.5
    assert never.recovered_s is None
