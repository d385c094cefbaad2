"""The policies to compare with."""

from collections import Counter

import pytest

from prfaas.contracts.terms import Outcome
from prfaas_scheduler.policies.base import Policy
from prfaas_scheduler.policies.baselines import Balanced, LocalOnly, RemoteAll
from tests.scheduler.policies.places import choose, site


def test_balanced_deals_by_capacity_whatever_the_length() -> None:
    policy = Balanced()
    home, far = site("home", ((1.0, 3.0), (100_000.0, 3.0)), 3), site("far", ((1.0, 1.0), (100_000.0, 1.0)), 3)
    chosen = Counter(choose(policy, length, home, far).candidate.name for length in (10, 90_000, 500, 7) * 25)
    assert chosen == {"far": 75, "home": 25}


@pytest.mark.parametrize(("policy", "stays"), [(LocalOnly(), True), (RemoteAll(), False)])
def test_all_stays_or_all_goes_while_it_can(policy: Policy, stays: bool) -> None:
    home, far = site("home"), site("far")
    for tokens in (1, 100_000):
        choice = choose(policy, tokens, home, far)
        assert (choice.candidate.name, choice.outcome) == (
            ("home", Outcome.LOCAL_POLICY) if stays else ("far", Outcome.OFFLOADED)
        )
    assert choose(policy, 100, home).candidate.name == "home"
    forced = choose(policy, 100, None, far)
    assert (forced.candidate.name, forced.outcome) == ("far", Outcome.OFFLOADED)
