import pytest

from prfaas.contracts.to_prefill import ALONE_AFTER_S, LEASE_S, EgressLease
from prfaas.link.budget import EgressBudget


def lease(bytes_per_s: float | None, alone: float | None = None) -> EgressLease:
    return EgressLease(bytes_per_s=bytes_per_s, alone_bytes_per_s=alone, share=1.0, ask_again_s=0.1)


def sent_bytes(budget: EgressBudget, start: float, end: float, frame_bytes: int = 1000) -> int:
    """Bytes sent by one that always has something."""
    now, sent = start, 0
    while now < end:
        at = budget.allows_at(now)
        if at is not None:
            now = max(at, now + 1e-6)
            continue
        assert budget.allows(now)
        budget.spend(frame_bytes)
        sent += frame_bytes
    return sent


def test_without_leases_only_the_own_bound_counts() -> None:
    assert EgressBudget(None, leased=False, now_s=0.0).allows_at(0.0) is None
    assert sent_bytes(EgressBudget(1e6, leased=False, now_s=0.0), 0.0, 2.0) == pytest.approx(2e6, rel=0.01)


def test_a_lease_ends_by_itself_and_the_own_part_begins_when_all_others_have_ended_too() -> None:
    budget = EgressBudget(None, leased=True, now_s=0.0)
    assert not budget.allows(0.0), "nothing before the first answer"
    budget.ask(0.0, 0)
    budget.take(lease(1e6, alone=2e5), 0.0)
    assert sent_bytes(budget, 0.0, LEASE_S) == pytest.approx(1e6, rel=0.03)
    budget.ask(0.1, 0)
    assert sent_bytes(budget, LEASE_S, 0.1 + ALONE_AFTER_S) <= 1000
    assert sent_bytes(budget, 0.1 + ALONE_AFTER_S, 2.1 + ALONE_AFTER_S) == pytest.approx(4e5, rel=0.03)
    budget.take(lease(1e6), 5.0)
    assert sent_bytes(budget, 5.0, 5.5) == pytest.approx(5e5, rel=0.05)


def test_a_worker_that_nobody_ever_answers_goes_on_with_what_it_was_configured() -> None:
    budget = EgressBudget(3e5, leased=True, now_s=0.0)
    budget.ask(0.0, 0)
    assert sent_bytes(budget, 0.0, ALONE_AFTER_S) == 0
    assert sent_bytes(budget, ALONE_AFTER_S, ALONE_AFTER_S + 1) == pytest.approx(3e5, rel=0.03)


def test_a_question_after_an_unanswered_one_says_that_the_own_part_will_be_taken() -> None:
    budget = EgressBudget(None, leased=True, now_s=0.0)
    budget.ask(0.0, 0)
    budget.take(lease(1e5, alone=2e5), 0.0)
    budget.ask(0.1, 0)
    assert budget.held_bytes_per_s(0.1) == 1e5, "it may be answered yet"
    budget.ask(0.8, 0)
    assert budget.held_bytes_per_s(0.8) == 2e5 and budget.bytes_per_s(0.8) == 1e5
    budget.take(lease(1e5, alone=2e5), 0.8)
    budget.ask(0.9, 0)
    assert budget.held_bytes_per_s(0.9) == 1e5


def test_a_link_without_a_budget_is_not_held_up_by_a_silent_probe() -> None:
    budget = EgressBudget(None, leased=True, now_s=0.0)
    budget.ask(0.0, 0)
    budget.take(lease(None), 0.0)
    assert budget.allows(100.0) and budget.frame_bytes() is None


def test_what_is_asked_for_follows_what_was_used_and_what_waits() -> None:
    budget = EgressBudget(None, leased=True, now_s=0.0)
    budget.take(lease(None), 0.0)
    budget.spend(100_000)
    assert budget.ask(0.2, 0) == pytest.approx(1.5 * 500_000)
    assert budget.ask(0.4, 0) == 0.0
    assert budget.ask(0.6, 1_000_000) == pytest.approx(1e7)


def test_frames_are_small_against_the_part_that_stays() -> None:
    budget = EgressBudget(1e6, leased=True, now_s=0.0)
    assert budget.frame_bytes() == 20_000
    budget.take(lease(1e8, alone=5e5), 0.0)
    assert budget.frame_bytes() == 10_000
    budget.take(lease(1e8, alone=1.0), 0.0)
    assert budget.frame_bytes() == 4096
