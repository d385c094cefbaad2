"""A deferred prompt: an attempt that waits for an idle worker, then those that every prompt has."""

import pytest
from msgspec.structs import replace

from prfaas.contracts.terms import Outcome
from prfaas.contracts.to_decode import Generate
from prfaas.contracts.to_gateway import Started
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
    (told,) = (each.ended for each in instructions if isinstance(each, TellScheduler))
    assert (told.site, told.next_site, told.verified) == ("far", "far", False)
    third = begun(failed(core, 2, "timeout", 8.0))
    assert (third.deferred, third.prefill_site, third.timeout_s) == (False, "home", 2.0)
    core.validate()


def test_its_turn_at_the_same_site_is_no_fallback() -> None:
    core = make_core()
    core.handle(GenerateAsked(0.0, deferred(remote=False)))
    second = begun(failed(core, 1, "timeout", 5.0))
    assert (second.prefill_site, second.timeout_s) == ("home", 5.0), "all that is left of the deadline"
    events = [each.event for each in core.handle(AttemptVerified(6.0, "r1", 2, 0.0)) if isinstance(each, Emit)]
    (started,) = (event for event in events if isinstance(event, Started))
    assert started.outcome is Outcome.LOCAL_SHORT


def test_what_is_no_wait_falls_back_at_once() -> None:
    core = make_core()
    core.handle(GenerateAsked(0.0, deferred()))
    second = begun(failed(core, 1, "corrupt", 1.0))
    assert (second.deferred, second.prefill_site) == (False, "home")
