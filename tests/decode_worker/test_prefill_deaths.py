"""Prompts that prefill workers die of: two deaths put one aside for a while, a success clears it."""

import hypothesis.strategies as st
from hypothesis import given

from prfaas.contracts.kv import TransferReport
from prfaas_decode_worker.events import AttemptFailed, AttemptVerified, BeginAttempt, GenerateAsked
from prfaas_decode_worker.prefill_deaths import MAX_DEATHS, MAX_PROMPTS, REMEMBERED_S, PrefillDeaths
from tests.decode_worker.test_service_core import ask, events_of, make_core

PROMPT = (1, 2, 3)


def test_two_deaths_are_remembered_for_a_while_and_no_longer() -> None:
    deaths = PrefillDeaths()
    deaths.died(PROMPT, 0.0)
    assert not deaths.deadly(PROMPT, 0.0)
    deaths.died(PROMPT, 1.0)
    assert deaths.deadly(PROMPT, REMEMBERED_S) and not deaths.deadly((1, 2), 1.0)
    assert not deaths.deadly(PROMPT, 1.0 + REMEMBERED_S)


def test_memory_is_bounded() -> None:
    deaths = PrefillDeaths()
    for number in range(MAX_PROMPTS + 5):
        deaths.died((number,), 0.0)
    deaths.validate()
    assert deaths.count((0,), 0.0) == 0 and deaths.count((MAX_PROMPTS,), 0.0) == 1


@given(st.lists(st.tuples(st.sampled_from(["died", "survived"]), st.integers(0, 2), st.floats(0, REMEMBERED_S)), max_size=40))
def test_a_prompt_is_deadly_after_deaths_without_a_success_between_them(steps: list[tuple[str, int, float]]) -> None:
    deaths, now_s = PrefillDeaths(), 0.0
    expected: dict[int, list[float]] = {}
    for what, prompt, after_s in steps:
        now_s += after_s
        known = expected.setdefault(prompt, [])
        if known and now_s - known[-1] >= REMEMBERED_S:
            known.clear()
        if what == "died":
            deaths.died((prompt,), now_s)
            known.append(now_s)
        else:
            deaths.survived((prompt,))
            known.clear()
        assert deaths.deadly((prompt,), now_s) is (len(known) >= MAX_DEATHS)
        deaths.validate()


def test_a_prompt_that_kills_takes_two_workers_and_is_refused_at_once_afterwards() -> None:
    core = make_core()
    core.handle(GenerateAsked(0.0, ask()))
    *_, again = core.handle(AttemptFailed(1.0, "r1", 1, "worker_lost", "gone", begun=True))
    assert isinstance(again, BeginAttempt), "it may have died of anything"
    (failed,) = events_of(core.handle(AttemptFailed(2.0, "r1", 2, "worker_lost", "gone", begun=True)))
    assert getattr(failed, "code", "") == "prefill_crash" and getattr(failed, "retry_after_s", 0) is None
    (refused,) = core.handle(GenerateAsked(3.0, ask("r2")))
    assert getattr(getattr(refused, "answer", None), "code", "") == "prefill_crash"
    assert len(core.handle(GenerateAsked(3.0, ask("r3", prompt=(5, 6))))) == 2, "another prompt is welcome"
    assert len(core.handle(GenerateAsked(2.0 + REMEMBERED_S, ask("r2")))) == 2


def test_workers_that_had_not_begun_or_failed_otherwise_say_nothing_of_the_prompt() -> None:
    core = make_core()
    for number in range(3):
        request_id = f"r{number}"
        core.handle(GenerateAsked(0.0, ask(request_id)))
        core.handle(AttemptFailed(1.0, request_id, 1, "worker_lost", "gone"))
        core.handle(AttemptFailed(1.0, request_id, 2, "timeout", "late", begun=True))
        core.handle(AttemptVerified(2.0, request_id, 3, 0.0, TransferReport()))
        assert request_id in core.requests
        core.requests.clear()
