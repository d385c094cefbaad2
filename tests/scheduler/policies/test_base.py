"""What each policy says to the same candidates."""

from collections import Counter

from prfaas.contracts.terms import Outcome
from prfaas.contracts.to_scheduler import LinkEstimate
from prfaas_scheduler.backlog import Backlog
from prfaas_scheduler.candidates import Holder, PrefillSite
from prfaas_scheduler.policies.base import Balanced, Candidates, RemoteAll, Threshold
from prfaas_scheduler.policies.predictive import Predictive

FAST = ((1000.0, 0.44), (32_000.0, 1.84), (128_000.0, 7.4))
SLOW = ((1000.0, 0.6), (32_000.0, 5.05), (128_000.0, 22.7))
KV = ((1000.0, 2e8), (128_000.0, 2.4e9))


PATIENT = Predictive(ttft_objective_s=60.0, comfort_share=0.02)


def site(
    name: str, points: tuple[tuple[float, float], ...] = FAST, workers: int = 1, goodput_bytes_per_s: float | None = None
) -> PrefillSite:
    link = None
    if goodput_bytes_per_s is not None:
        link = LinkEstimate(source=name, destination="home", rtt_s=0.02, goodput_bytes_per_s=goodput_bytes_per_s, samples=3)
    return PrefillSite(name, workers, points, KV, 0.0, Backlog(), link, 0.0)


def busy(candidate: PrefillSite, work_s: float, kv_bytes: float = 0.0) -> PrefillSite:
    for number in range(candidate.workers):
        candidate.backlog.add(f"{candidate.site}{number}", work_s, kv_bytes, candidate.workers, 0.0)
    return candidate


def test_balanced_deals_by_capacity_whatever_the_length() -> None:
    policy = Balanced()
    candidates = Candidates(site("home", ((1.0, 3.0), (100_000.0, 3.0)), 3), [site("far", ((1.0, 1.0), (100_000.0, 1.0)), 3)])
    chosen = Counter(policy.choose(length, candidates).site.site for length in (10, 90_000, 500, 7) * 25)
    assert chosen == {"far": 75, "home": 25}


def test_predictive_keeps_short_prompts_and_sends_long_ones() -> None:
    candidates = Candidates(site("home", SLOW), [site("far", FAST, goodput_bytes_per_s=1e10)])
    assert PATIENT.choose(1000, candidates).outcome is Outcome.LOCAL_SHORT
    choice = PATIENT.choose(60_000, candidates)
    assert (choice.site.site, choice.outcome) == ("far", Outcome.OFFLOADED)
    assert "at home" in choice.reason and "at far" in choice.reason


def test_predictive_sees_queues_on_either_side() -> None:
    remote = site("far", FAST, goodput_bytes_per_s=1e10)
    assert PATIENT.choose(1000, Candidates(busy(site("home", SLOW), 3.0), [remote])).site.site == "far"
    crowded = busy(site("far", FAST, goodput_bytes_per_s=1e10), 30.0)
    assert PATIENT.choose(60_000, Candidates(site("home", SLOW), [crowded])).site.site == "home"


def test_predictive_sees_what_the_link_carries_and_owes() -> None:
    thin = site("far", FAST, goodput_bytes_per_s=1e8)
    choice = PATIENT.choose(60_000, Candidates(site("home", SLOW), [thin]))
    assert (choice.site.site, choice.outcome) == ("home", Outcome.LOCAL_LINK_SCARCE)
    owing = busy(site("far", FAST, 2, goodput_bytes_per_s=1e9), 0.0, 2e10)
    assert PATIENT.choose(60_000, Candidates(site("home", SLOW), [owing])).site.site == "home"


def test_for_predictive_an_unknown_link_is_a_scarce_one() -> None:
    choice = PATIENT.choose(60_000, Candidates(site("home", SLOW), [site("far")]))
    assert (choice.site.site, choice.outcome) == ("home", Outcome.LOCAL_LINK_SCARCE)


def test_predictive_takes_the_better_of_two_remote_sites() -> None:
    near, far = site("near", FAST, goodput_bytes_per_s=1e10), site("far", FAST, goodput_bytes_per_s=3e8)
    assert PATIENT.choose(60_000, Candidates(site("home", SLOW), [far, near])).site.site == "near"


def test_a_prompt_that_nobody_can_serve_in_time_is_deferred_where_it_is_reached_first() -> None:
    policy = Predictive(ttft_objective_s=10.0)
    home, far = busy(site("home", SLOW), 12.0), busy(site("far", FAST, goodput_bytes_per_s=1e10), 20.0)
    choice = policy.choose(1000, Candidates(home, [far]))
    assert choice.deferred and choice.site.site == "home"
    assert "more than 90% of 10 s" in choice.reason and "in 13 s if none comes" in choice.reason
    home.backlog.add("late", 10.0, 0.0, 1, 0.0, deferred=True)
    choice = policy.choose(1000, Candidates(home, [far]))
    assert choice.deferred and choice.site.site == "far", "those that were deferred before it count"


def test_without_a_remote_site_a_late_prompt_is_deferred_at_home() -> None:
    policy = Predictive(ttft_objective_s=10.0)
    choice = policy.choose(1000, Candidates(busy(site("home", SLOW), 12.0), []))
    assert (choice.deferred, choice.outcome) == (True, Outcome.LOCAL_NO_REMOTE)
    choice = policy.choose(1000, Candidates(busy(site("home", SLOW), 12.0), [site("far")]))
    assert (choice.deferred, choice.outcome) == (True, Outcome.LOCAL_LINK_SCARCE)
    assert not policy.choose(1000, Candidates(busy(site("home", SLOW), 3.0), [])).deferred


def test_what_is_deferred_delays_nobody_else() -> None:
    policy = Predictive(ttft_objective_s=10.0)
    home, far = busy(site("home", SLOW), 3.0), busy(site("far", FAST, goodput_bytes_per_s=1e10), 20.0)
    home.backlog.add("late", 100.0, 1e12, 1, 0.0, deferred=True)
    far.backlog.add("late", 100.0, 1e12, 1, 0.0, deferred=True)
    choice = policy.choose(1000, Candidates(home, [far]))
    assert not choice.deferred and choice.site.site == "home"
    assert "predicted 3.60 s at home, 20.46 s at far" in choice.reason


def caching(candidate: PrefillSite, cached_tokens: int, wait_s: float = 0.0) -> PrefillSite:
    candidate.holder = Holder("p0", cached_tokens, wait_s)
    return candidate


def test_threshold_goes_by_uncached_length() -> None:
    candidates = Candidates(caching(site("home", SLOW), 50_000), [site("far")])
    assert Threshold(19_400).choose(60_000, candidates).outcome is Outcome.LOCAL_SHORT
    assert Threshold(9_000).choose(60_000, candidates).outcome is Outcome.OFFLOADED


def test_whose_cache_counts_depends_on_the_bandwidth() -> None:
    """The paper's rule by an example: 20,000 tokens are uncached here, 5,000 there, and t lies between or above."""
    candidates = Candidates(caching(site("home", SLOW), 10_000), [caching(site("far"), 25_000)])
    policy = Threshold(21_000)
    assert policy.choose(30_000, candidates).site.site == "home", "scarce: only the own cache counts"
    policy.bandwidth_scarce = False
    choice = policy.choose(30_000, candidates)
    assert (choice.site.site, choice.outcome) == ("far", Outcome.OFFLOADED)
    assert "5000 uncached tokens at far, 20000 here" in choice.reason
    policy.threshold_tokens = 4000
    assert "20000 uncached tokens > t = 4000" in policy.choose(30_000, candidates).reason


def test_of_equal_remote_sites_the_one_with_the_longer_cache_is_taken() -> None:
    policy = RemoteAll()
    near, far = site("near"), caching(site("far"), 20_000)
    assert policy.choose(30_000, Candidates(None, [near, far])).site is far
    assert policy.choose(30_000, Candidates(None, [near, busy(caching(site("far"), 20_000, 30.0), 30.0)])).site is near


def test_predictive_weighs_caches_against_queues() -> None:
    home = caching(site("home", SLOW), 55_000)
    assert PATIENT.choose(60_000, Candidates(home, [site("far", FAST, goodput_bytes_per_s=1e10)])).site is home
    home = caching(site("home", SLOW), 55_000, wait_s=20.0)
    assert PATIENT.choose(60_000, Candidates(home, [site("far", FAST, goodput_bytes_per_s=1e10)])).site.site == "far"


def test_predictive_ships_less_to_a_decode_worker_that_has_the_prefix() -> None:
    thin = site("far", FAST, goodput_bytes_per_s=2.5e8)
    assert PATIENT.choose(60_000, Candidates(site("home", SLOW), [thin])).site.site == "far"
    thin = site("far", FAST, goodput_bytes_per_s=1e8)
    assert PATIENT.choose(60_000, Candidates(site("home", SLOW), [thin])).site.site == "home"
    thin.decode_tokens = 50_000
    assert PATIENT.choose(60_000, Candidates(site("home", SLOW), [thin])).site.site == "far"
