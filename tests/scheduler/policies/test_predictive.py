"""The least predicted time to first token: queues, links, caches, and prompts that are late already."""

from prfaas.contracts.terms import Outcome
from prfaas_scheduler.policies.predictive import Predictive
from tests.scheduler.policies.places import FAST, SLOW, busy, caching, choose, site

PATIENT = Predictive(ttft_objective_s=60.0, comfort_share=0.02)


def test_predictive_keeps_short_prompts_and_sends_long_ones() -> None:
    home, far = site("home", SLOW), site("far", FAST, goodput_bytes_per_s=1e10)
    assert choose(PATIENT, 1000, home, far).outcome is Outcome.LOCAL_SHORT
    choice = choose(PATIENT, 60_000, home, far)
    assert (choice.candidate.name, choice.outcome) == ("far", Outcome.OFFLOADED)
    assert "at home" in choice.reason and "at far" in choice.reason


def test_predictive_sees_queues_on_either_side() -> None:
    remote = site("far", FAST, goodput_bytes_per_s=1e10)
    assert choose(PATIENT, 1000, busy(site("home", SLOW), 3.0), remote).candidate.name == "far"
    crowded = busy(site("far", FAST, goodput_bytes_per_s=1e10), 30.0)
    assert choose(PATIENT, 60_000, site("home", SLOW), crowded).candidate.name == "home"


def test_predictive_sees_what_the_link_carries_and_owes() -> None:
    thin = site("far", FAST, goodput_bytes_per_s=1e8)
    choice = choose(PATIENT, 60_000, site("home", SLOW), thin)
    assert (choice.candidate.name, choice.outcome) == ("home", Outcome.LOCAL_LINK_SCARCE)
    owing = busy(site("far", FAST, 2, goodput_bytes_per_s=1e9), 0.0, 2e10)
    assert choose(PATIENT, 60_000, site("home", SLOW), owing).candidate.name == "home"


def test_for_predictive_an_unknown_link_is_a_scarce_one() -> None:
    choice = choose(PATIENT, 60_000, site("home", SLOW), site("far"))
    assert (choice.candidate.name, choice.outcome) == ("home", Outcome.LOCAL_LINK_SCARCE)


def test_predictive_takes_the_better_of_two_remote_sites() -> None:
    near, far = site("near", FAST, goodput_bytes_per_s=1e10), site("far", FAST, goodput_bytes_per_s=3e8)
    assert choose(PATIENT, 60_000, site("home", SLOW), far, near).candidate.name == "near"


def test_a_prompt_that_no_site_can_serve_in_time_is_deferred_where_it_is_reached_first() -> None:
    policy = Predictive(ttft_objective_s=10.0)
    home, far = busy(site("home", SLOW), 12.0), busy(site("far", FAST, goodput_bytes_per_s=1e10), 20.0)
    choice = choose(policy, 1000, home, far)
    assert choice.deferred and choice.candidate.name == "home"
    assert "more than 90% of 10 s" in choice.reason and "in 13 s if none comes" in choice.reason
    home.site.backlog.add("late", 10.0, 0.0, 1, 0.0, deferred=True)
    choice = choose(policy, 1000, home, far)
    assert choice.deferred and choice.candidate.name == "far", "those that were deferred before it count"


def test_without_a_remote_site_a_late_prompt_is_deferred_at_home() -> None:
    policy = Predictive(ttft_objective_s=10.0)
    choice = choose(policy, 1000, busy(site("home", SLOW), 12.0))
    assert (choice.deferred, choice.outcome) == (True, Outcome.LOCAL_NO_REMOTE)
    choice = choose(policy, 1000, busy(site("home", SLOW), 12.0), site("far"))
    assert (choice.deferred, choice.outcome) == (True, Outcome.LOCAL_LINK_SCARCE)
    assert not choose(policy, 1000, busy(site("home", SLOW), 3.0)).deferred


def test_what_is_deferred_delays_no_other_prompt() -> None:
    policy = Predictive(ttft_objective_s=10.0)
    home, far = busy(site("home", SLOW), 3.0), busy(site("far", FAST, goodput_bytes_per_s=1e10), 20.0)
    home.site.backlog.add("late", 100.0, 1e12, 1, 0.0, deferred=True)
    far.site.backlog.add("late", 100.0, 1e12, 1, 0.0, deferred=True)
    choice = choose(policy, 1000, home, far)
    assert not choice.deferred and choice.candidate.name == "home"
    assert "predicted 3.60 s at home, 20.46 s at far" in choice.reason


def test_predictive_weighs_caches_against_queues() -> None:
    home = caching(site("home", SLOW), 55_000)
    assert choose(PATIENT, 60_000, home, site("far", FAST, goodput_bytes_per_s=1e10)).candidate.site is home.site
    home = caching(site("home", SLOW), 55_000, wait_s=20.0)
    assert choose(PATIENT, 60_000, home, site("far", FAST, goodput_bytes_per_s=1e10)).candidate.name == "far"


def test_predictive_ships_less_to_a_decode_worker_that_has_the_prefix() -> None:
    thin = site("far", FAST, goodput_bytes_per_s=2.5e8)
    assert choose(PATIENT, 60_000, site("home", SLOW), thin).candidate.name == "far"
    thin = site("far", FAST, goodput_bytes_per_s=1e8)
    assert choose(PATIENT, 60_000, site("home", SLOW), thin).candidate.name == "home"
    assert choose(PATIENT, 60_000, site("home", SLOW), thin, decode_tokens=50_000).candidate.name == "far"
