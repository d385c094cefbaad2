"""Prompts that prefill workers die of: two deaths put one aside for a while, a success clears it."""

import hypothesis.strategies as st
from hypothesis import given

from prfaas.contracts.kv import TransferReport
from prfaas_decode_worker.events import AttemptFailed, AttemptVerified, BeginAttempt, GenerateAsked, WorkerAnswered
from prfaas_decode_worker.prefill_deaths import MAX_DEATHS, MAX_PROMPTS, REMEMBERED_S, PrefillDeaths
from prfaas_decode_worker.prefill_watch_core import Holder
from tests.decode_worker.core_at_hand import ask, events_of, make_core

PROMPT = (1, 2, 3)


def worker(number: int) -> Holder:
    return Holder("home", "p0", f"i{number}")


def test_two_deaths_are_remembered_for_a_while_and_no_longer() -> None:
    deaths = PrefillDeaths()
    deaths.died(PROMPT, worker(0), 0.0)
    assert not deaths.deadly(PROMPT, 0.0)
    deaths.died(PROMPT, worker(1), 1.0)
    assert deaths.deadly(PROMPT, REMEMBERED_S) and not deaths.deadly((1, 2), 1.0)
    assert not deaths.deadly(PROMPT, 1.0 + REMEMBERED_S)


def test_memory_is_bounded() -> None:
    deaths = PrefillDeaths()
    for number in range(MAX_PROMPTS + 5):
        deaths.died((number,), worker(number), 0.0)
    deaths.validate()
    assert deaths.count((0,), 0.0) == 0 and deaths.count((MAX_PROMPTS,), 0.0) == 1


STEPS = st.tuples(
    st.sampled_from(["died", "died", "survived", "lives"]), st.integers(0, 2), st.integers(0, 3), st.floats(0, REMEMBERED_S)
)


@given(st.lists(STEPS, max_size=40))
def test_a_prompt_is_deadly_after_deaths_without_a_success_between_them(steps: list[tuple[str, int, int, float]]) -> None:
    deaths, now_s = PrefillDeaths(), 0.0
    expected: dict[int, set[int]] = {}
    last_at: dict[int, float] = {}
    for what, prompt, number, after_s in steps:
        now_s += after_s
        for known in expected:
            if now_s - last_at[known] >= REMEMBERED_S:
                expected[known].clear()
        if what == "died":
            deaths.died((prompt,), worker(number), now_s)
            expected.setdefault(prompt, set()).add(number)
            last_at[prompt] = now_s
        elif what == "survived":
            deaths.survived((prompt,))
            expected.pop(prompt, None)
        else:
            deaths.lives(worker(number))
            for died in expected.values():
                died.discard(number)
        assert deaths.deadly((prompt,), now_s) is (len(expected.get(prompt, ())) >= MAX_DEATHS)
        deaths.validate()


def lost(now_s: float, request_id: str, attempt: int, died: Holder | None) -> AttemptFailed:
    return AttemptFailed(now_s, request_id, attempt, "worker_lost", "gone", died)


def test_a_prompt_that_kills_takes_two_workers_and_is_refused_at_once_afterwards() -> None:
    core = make_core()
    core.handle(GenerateAsked(0.0, ask()))
    *_, again = core.handle(lost(1.0, "r1", 1, worker(1)))
    assert isinstance(again, BeginAttempt), "it may have died of anything"
    (failed,) = events_of(core.handle(lost(2.0, "r1", 2, worker(2))))
    assert getattr(failed, "code", "") == "prefill_crash" and getattr(failed, "retry_after_s", 0) is None
    (refused,) = core.handle(GenerateAsked(3.0, ask("r2")))
    assert getattr(getattr(refused, "answer", None), "code", "") == "prefill_crash"
    assert len(core.handle(GenerateAsked(3.0, ask("r3", prompt=(5, 6))))) == 2, "another prompt is welcome"
    assert len(core.handle(GenerateAsked(2.0 + REMEMBERED_S, ask("r2")))) == 2


def test_a_worker_that_answers_after_all_has_not_died_of_the_prompt() -> None:
    core = make_core()
    core.handle(GenerateAsked(0.0, ask()))
    core.handle(lost(1.0, "r1", 1, worker(1)))
    assert core.handle(WorkerAnswered(1.5, worker(1))) == []
    *_, again = core.handle(lost(2.0, "r1", 2, worker(2)))
    assert isinstance(again, BeginAttempt) and again.attempt == 3
    (failed,) = events_of(core.handle(lost(3.0, "r1", 3, worker(3))))
    assert getattr(failed, "code", "") == "prefill_crash"
    core.handle(WorkerAnswered(4.0, worker(3)))
    assert len(core.handle(GenerateAsked(5.0, ask("r2")))) == 2, "it is welcome again"


def test_workers_that_are_only_lost_say_nothing_of_the_prompt_however_many_they_are() -> None:
    core = make_core()
    for number in range(3):
        request_id = f"r{number}"
        core.handle(GenerateAsked(0.0, ask(request_id)))
        for attempt in (1, 2, 3):
            core.handle(lost(1.0, request_id, attempt, None))
        core.handle(AttemptFailed(1.0, request_id, 4, "timeout", "late"))
        core.handle(AttemptVerified(2.0, request_id, 5, 0.0, TransferReport()))
        assert request_id in core.requests
        core.requests.clear()
