"""Readings of other schedulers' rules."""

from dataclasses import replace

from prfaas_scheduler.candidates import Candidate
from prfaas_scheduler.policies.readings import DynamoCost, Headroom, LeastLoaded, ShortestWait
from tests.scheduler.policies.places import SLOW, busy, choose, site

FULL = 12.5e9


def far(wait_s: float = 0.0) -> Candidate:
    return busy(site("far", goodput_bytes_per_s=FULL), wait_s) if wait_s else site("far", goodput_bytes_per_s=FULL)


def with_tokens(candidate: Candidate, tokens: int) -> Candidate:
    return replace(candidate, site=replace(candidate.site, placed_tokens=tokens))


def test_least_loaded_counts_prompts_and_no_work() -> None:
    assert choose(LeastLoaded(), 30_000, site("home", SLOW), far(0.1)).candidate.name == "home"
    assert choose(LeastLoaded(), 30_000, busy(site("home", SLOW), 0.1), far()).candidate.name == "far"


def test_shortest_wait_counts_the_prompts_own_prefill() -> None:
    assert choose(ShortestWait(), 30_000, site("home", SLOW), far(2.0)).candidate.name == "far"
    assert choose(ShortestWait(), 30_000, site("home", SLOW), far(9.0)).candidate.name == "home"


def test_dynamos_cost_is_in_tokens_per_worker() -> None:
    policy = DynamoCost()
    assert choose(policy, 1000, with_tokens(site("home", SLOW), 5000), with_tokens(far(), 4000)).candidate.name == "far"
    assert choose(policy, 1000, with_tokens(site("home", SLOW, 2), 5000), with_tokens(far(), 4000)).candidate.name == "home"


def test_headroom_takes_the_site_with_the_least_room_that_is_left_and_sheds_without_any() -> None:
    tightest = choose(Headroom(10.0), 30_000, site("home", SLOW), far())
    assert (tightest.candidate.name, tightest.shed_for_s) == ("home", None)
    assert choose(Headroom(4.0), 30_000, site("home", SLOW), far()).candidate.name == "far"
    shed = choose(Headroom(4.0), 30_000, busy(site("home", SLOW), 9.0), far(6.0))
    assert shed.shed_for_s is not None and 3.0 < shed.shed_for_s < 5.0
