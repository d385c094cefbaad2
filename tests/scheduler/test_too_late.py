"""Refusals of prompts that are placed too late: no worker comes to them before their deadline, as predicted."""

import pytest

from prfaas.contracts.terms import Role
from prfaas.contracts.to_gateway import Placement
from prfaas_scheduler.events import HeartbeatReceived
from prfaas_scheduler.policies.baselines import LocalOnly, RemoteAll
from tests.scheduler.placing import SPEED, STEPS, beat, over, place, placed, refused, scheduler


def test_what_no_worker_comes_to_before_its_deadline_is_refused_with_the_time_that_is_missing() -> None:
    beats = [beat("home", "d0", Role.DECODE, slots=90), beat("far", "p1", Role.PREFILL, **SPEED)]
    core = scheduler(RemoteAll(), *beats)
    accepted = 0
    while isinstance(answer := place(core, 8001, request_id=str(accepted)), Placement):
        accepted += 1
    assert accepted == 4, "8 s each, one after another: the next would begin after 32 s"
    assert answer.code == "not_in_time"
    assert answer.retry_after_s == pytest.approx(2.0, abs=1e-6)
    assert answer.message == "no prefill worker comes to it within 32.0 s, and its first token is due in 30.0 s"
    # The refused one counts nowhere, and there is room again when one is over.
    assert len(core.fleet.site_state("far").backlog) == accepted
    for each in beats:
        core.handle(HeartbeatReceived(8.0, each))
    over(core, "0", "far", 8.0)
    placed(core, 8001, 8.0, request_id="later")


def test_a_worker_that_is_free_is_tried_however_slow_it_was_when_it_was_observed() -> None:
    """One slow prefill would else refuse all later prompts, and no other would show that the worker is fast again."""
    slow = beat("far", "p1", Role.PREFILL, prefill_points=((100.0, 500.0),))
    core = scheduler(RemoteAll(), beat("home", "d0", Role.DECODE, slots=90), slow)
    for number in range(3):
        placed(core, 101, request_id=str(number))
        over(core, str(number), "far", 0.0)
    placed(core, 101, request_id="first")
    assert refused(core, prompt_tokens=101, request_id="second").code == "not_in_time"


def test_no_prompt_is_refused_for_a_wait_behind_prompts_far_longer_than_any_observed() -> None:
    """A prediction in proportion is many times too long there."""
    speed = beat("far", "p1", Role.PREFILL, prefill_points=((100.0, 0.1),))
    core = scheduler(RemoteAll(), beat("home", "d0", Role.DECODE, slots=500), speed)
    for number in range(4):
        placed(core, 80_001, request_id=str(number))
    core = scheduler(RemoteAll(), beat("home", "d0", Role.DECODE, slots=500), speed)
    for number in range(300):
        placed(core, 101, request_id=str(number))
    assert refused(core, prompt_tokens=101, request_id="last").code == "not_in_time"


def test_while_the_speed_of_a_site_is_not_known_nothing_is_too_late() -> None:
    core = scheduler(
        LocalOnly(),
        beat("home", "d0", Role.DECODE, slots=90),
        beat("home", "p0", Role.PREFILL, **SPEED),
        beat("far", "p1", Role.PREFILL),
    )
    assert all(placed(core, 8001, request_id=str(number)) for number in range(9))


def test_what_no_decode_worker_has_a_place_for_before_its_deadline_is_refused() -> None:
    full = beat("home", "d0", Role.DECODE, slots=40, waiting_limit=90, running=10, waiting=20, **STEPS)
    core = scheduler(LocalOnly(), full, beat("home", "p0", Role.PREFILL, **SPEED), tpot_objective_s=0.03)
    answer = refused(core)
    # Ten answers of 500 steps of 30 ms end in 15 s; 21 requests are to go before it has a place.
    assert answer.code == "not_in_time" and answer.retry_after_s == pytest.approx(21 * 1.5 - 30.0)
    assert "no decode worker comes to it" in answer.message
    assert placed(scheduler(LocalOnly(), full, beat("home", "p0", Role.PREFILL, **SPEED))).decode_worker == "d0"
