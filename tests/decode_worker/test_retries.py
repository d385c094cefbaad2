"""A deferred prompt: an attempt that waits for an idle worker, then those that every prompt has."""

import pytest
from msgspec.structs import replace

from prfaas.contracts.kv import TransferReport
from prfaas.contracts.terms import Outcome
from prfaas.contracts.to_decode import Generate
from prfaas.contracts.to_gateway import Failed, Started
from prfaas.contracts.to_scheduler import AttemptEnded
from prfaas_decode_worker.events import (
    AttemptFailed,
    AttemptVerified,
    BeginAttempt,
    Emit,
    GenerateAsked,
    Instruction,
    TellScheduler,
)
from prfaas_decode_worker.service_core import DecodeCore
from tests.decode_worker.test_service_core import ask, make_core


def deferred(remote: bool = True) -> Generate:
    generate = ask(remote=remote)
    return replace(generate, placement=replace(generate.placement, deferred_s=5.0, fallback_after_s=3.0))


def begun(instructions: list[Instruction]) -> BeginAttempt:
    (attempt,) = (each for each in instructions if isinstance(each, BeginAttempt))
    return attempt


def failed(core: DecodeCore, attempt: int, code: str, now_s: float) -> list[Instruction]:
    return core.handle(AttemptFailed(now_s, "r1", attempt, code, "no worker had time"))


@pytest.mark.parametrize("code", ["timeout", "expired"])
def test_it_waits_for_an_idle_worker_then_in_turn_then_falls_back(code: str) -> None:
    core = make_core()
    first = begun(core.handle(GenerateAsked(0.0, deferred())))
    assert (first.deferred, first.prefill_site, first.timeout_s) == (True, "far", 5.0)
    instructions = failed(core, 1, code, 5.0)
    second = begun(instructions)
    assert (second.deferred, second.prefill_site, second.timeout_s) == (False, "far", 3.0)
    (told,) = (each.news for each in instructions if isinstance(each, TellScheduler))
    assert isinstance(told, AttemptEnded)
    assert (told.site, told.next_site, told.verified) == ("far", "far", False)
    third = begun(failed(core, 2, "timeout", 8.0))
    assert (third.deferred, third.prefill_site, third.timeout_s) == (False, "home", 2.0)
    core.validate()


def test_its_turn_at_the_same_site_is_no_fallback() -> None:
    core = make_core()
    core.handle(GenerateAsked(0.0, deferred(remote=False)))
    second = begun(failed(core, 1, "timeout", 5.0))
    assert (second.prefill_site, second.timeout_s) == ("home", 5.0), "all that is left of the deadline"
    events = [each.event for each in core.handle(AttemptVerified(6.0, "r1", 2, 0.0, TransferReport())) if isinstance(each, Emit)]
    (started,) = (event for event in events if isinstance(event, Started))
    assert started.outcome is Outcome.LOCAL_SHORT


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


def test_what_is_no_wait_falls_back_at_once() -> None:
    core = make_core()
    core.handle(GenerateAsked(0.0, deferred()))
    second = begun(failed(core, 1, "corrupt", 1.0))
    assert (second.deferred, second.prefill_site) == (False, "home")


def refused(core: DecodeCore, attempt: int, now_s: float, retry_after_s: float) -> list[Instruction]:
    message = "three workers have 40 s of work"
    return core.handle(AttemptFailed(now_s, "r1", attempt, "not_in_time", message, retry_after_s=retry_after_s))


def test_what_both_queues_refuse_is_refused_to_the_client_who_hears_when_to_come_back() -> None:
    core = make_core()
    core.handle(GenerateAsked(0.0, ask(remote=True)))
    second = begun(refused(core, 1, 0.1, 30.0))
    assert (second.prefill_site, second.admitted) == ("home", False), "the own site may have room, and may refuse it too"
    event = failed_for_good(refused(core, 2, 0.2, 7.5))
    assert (event.code, event.retry_after_s) == ("not_in_time", 7.5)
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
