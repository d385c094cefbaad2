"""The attempts of a request: where each goes, and when there is no further one."""

import pytest

from prfaas.contracts.to_gateway import Failed
from prfaas.contracts.to_scheduler import AttemptEnded
from prfaas_decode_worker.events import (
    AttemptFailed,
    BeginAttempt,
    Emit,
    GenerateAsked,
    Instruction,
    TellScheduler,
)
from prfaas_decode_worker.retries import MAX_UNCOUNTED_FAILURES
from prfaas_decode_worker.service_core import DecodeCore
from tests.decode_worker.core_at_hand import ask, make_core


def begun(instructions: list[Instruction]) -> BeginAttempt:
    (attempt,) = (each for each in instructions if isinstance(each, BeginAttempt))
    return attempt


def failed(core: DecodeCore, attempt: int, code: str, now_s: float) -> list[Instruction]:
    return core.handle(AttemptFailed(now_s, "r1", attempt, code, "no worker had time"))


def test_the_own_site_gets_what_is_left_of_the_deadline() -> None:
    core = make_core()
    first = begun(core.handle(GenerateAsked(0.0, ask())))
    assert (first.prefill_site, first.timeout_s) == ("far", 4.0)
    instructions = failed(core, 1, "timeout", 4.0)
    second = begun(instructions)
    assert (second.prefill_site, second.timeout_s) == ("home", 6.0)
    (told,) = (each.news for each in instructions if isinstance(each, TellScheduler))
    assert isinstance(told, AttemptEnded)
    assert (told.site, told.next_site, told.verified) == ("far", "home", False)
    core.validate()


def failed_for_good(instructions: list[Instruction]) -> Failed:
    (event,) = (each.event for each in instructions if isinstance(each, Emit))
    assert isinstance(event, Failed)
    return event


@pytest.mark.parametrize("remote", [True, False])
def test_a_prompt_that_breaks_two_engines_is_not_given_to_a_third(remote: bool) -> None:
    core = make_core()
    core.handle(GenerateAsked(0.0, ask(remote=remote)))
    assert begun(failed(core, 1, "engine", 1.0)).prefill_site == "home"
    event = failed_for_good(failed(core, 2, "engine", 2.0))
    assert event.code == "engine" and "failed 2 times" in event.message
    assert event.retry_after_s is None, "to try again would break two more"


def test_an_engine_may_fail_once_among_other_failures() -> None:
    core = make_core()
    core.handle(GenerateAsked(0.0, ask()))
    failed(core, 1, "engine", 1.0)
    assert begun(failed(core, 2, "timeout", 2.0)).attempt == 3
    assert failed_for_good(failed(core, 3, "engine", 3.0)).code == "engine"


def refused(core: DecodeCore, attempt: int, now_s: float, retry_after_s: float, code: str = "not_in_time") -> list[Instruction]:
    message = "three workers have 40 s of work"
    return core.handle(AttemptFailed(now_s, "r1", attempt, code, message, retry_after_s=retry_after_s))


@pytest.mark.parametrize("code", ["not_in_time", "job_queue_full"])
def test_what_both_queues_refuse_is_refused_to_the_client_who_hears_when_to_come_back(code: str) -> None:
    core = make_core()
    core.handle(GenerateAsked(0.0, ask(remote=True)))
    second = begun(refused(core, 1, 0.1, 30.0, code))
    assert (second.prefill_site, second.admitted) == ("home", False), "the own site may have room, and may refuse it too"
    event = failed_for_good(refused(core, 2, 0.2, 7.5, code))
    assert (event.code, event.retry_after_s) == (code, 7.5)
    assert "40 s of work" in event.message
    core.validate()


def test_the_own_queues_refusal_is_final() -> None:
    core = make_core()
    core.handle(GenerateAsked(0.0, ask(remote=False)))
    assert failed_for_good(refused(core, 1, 0.1, 2.0)).retry_after_s == 2.0


def test_an_attempt_after_one_that_was_taken_in_is_refused_no_more() -> None:
    core = make_core()
    assert not begun(core.handle(GenerateAsked(0.0, ask(remote=True)))).admitted
    assert begun(failed(core, 1, "corrupt", 1.0)).admitted


def test_a_queue_that_stores_nothing_until_the_deadline_is_named() -> None:
    # A server whose disk is full answers nothing.
    core = make_core()
    core.handle(GenerateAsked(0.0, ask(remote=False)))
    (event,) = (each.event for each in failed(core, 1, "job_not_queued", 9.9) if isinstance(each, Emit))
    assert isinstance(event, Failed) and event.code == "job_not_queued" and "no first token within" in event.message


@pytest.mark.parametrize("code", ["broker", "worker_lost"])
def test_attempts_that_fail_with_the_sites_server_or_a_lost_worker_do_not_count_until_there_are_many(code: str) -> None:
    core = make_core()
    core.handle(GenerateAsked(0.0, ask(remote=False)))
    for attempt in range(1, 1 + MAX_UNCOUNTED_FAILURES):
        begun(failed(core, attempt, code, 0.1))
    begun(failed(core, 1 + MAX_UNCOUNTED_FAILURES, code, 0.1))
    (event,) = (each.event for each in failed(core, 2 + MAX_UNCOUNTED_FAILURES, code, 0.1) if isinstance(each, Emit))
    assert isinstance(event, Failed) and event.code == code
    core.validate()
