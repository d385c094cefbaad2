"""The fixed threshold: uncached length, and whose cache counts."""

from prfaas.contracts.terms import Outcome
from prfaas_scheduler.policies.threshold import Threshold
from tests.scheduler.policies.places import SLOW, caching, choose, site


def test_threshold_goes_by_uncached_length() -> None:
    home, far = caching(site("home", SLOW), 50_000), site("far")
    assert choose(Threshold(19_400), 60_000, home, far).outcome is Outcome.LOCAL_SHORT
    assert choose(Threshold(9_000), 60_000, home, far).outcome is Outcome.OFFLOADED


def test_whose_cache_counts_depends_on_the_bandwidth() -> None:
    """The paper's rule by an example: 20,000 tokens are uncached here, 5,000 there, and t lies between or above."""
    home, far = caching(site("home", SLOW), 10_000), caching(site("far"), 25_000)
    policy = Threshold(21_000)
    assert choose(policy, 30_000, home, far).candidate.name == "home", "scarce: only the own cache counts"
    policy.bandwidth_scarce = False
    choice = choose(policy, 30_000, home, far)
    assert (choice.candidate.name, choice.outcome) == ("far", Outcome.OFFLOADED)
    assert "5000 uncached tokens at far, 20000 here" in choice.reason
    policy.threshold_tokens = 4000
    assert "20000 uncached tokens > t = 4000" in choose(policy, 30_000, home, far).reason
