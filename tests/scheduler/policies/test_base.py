"""The remote site that all policies prefer."""

from prfaas_scheduler.policies.baselines import RemoteAll
from tests.scheduler.policies.places import busy, caching, choose, site


def test_of_equal_remote_sites_the_one_with_the_longer_cache_is_taken() -> None:
    policy = RemoteAll()
    near, far = site("near"), caching(site("far"), 20_000)
    assert choose(policy, 30_000, None, near, far).candidate.site is far.site
    assert choose(policy, 30_000, None, near, busy(caching(site("far"), 20_000, 30.0), 30.0)).candidate.site is near.site
