"""The benchmark's fleets are what they claim: in the paper's proportions, busy, and not overloaded."""

from collections import Counter

import pytest

from load.bench.scheduler.fleet import HOME, make_fleet
from load.bench.scheduler.in_process import measure
from prfaas.contracts.terms import Role


def test_a_fleet_has_the_papers_proportions() -> None:
    fleet = make_fleet(120)
    assert Counter((beat.site == HOME, beat.role) for beat in fleet.beats) == {
        (False, Role.PREFILL): 40,
        (True, Role.PREFILL): 30,
        (True, Role.DECODE): 50,
    }
    assert len({beat.key for beat in fleet.beats}) == 120
    assert {link.source for link in fleet.links} == {beat.site for beat in fleet.beats} - {HOME}


def test_caches_hold_as_many_blocks_as_asked_and_are_hit() -> None:
    found = measure("threshold", 60, 300, 20_000)
    assert found.cached_blocks == pytest.approx(20_000, rel=0.1)
    assert 0.1 < found.hit_share < 1


@pytest.mark.parametrize("policy", ["threshold", "priced"])
def test_decisions_are_made_with_work_under_way(policy: str) -> None:
    found = measure(policy, 60, 300)
    assert (found.decisions, found.refused) == (300, 0)
    assert found.outstanding > 3
    assert 0.2 < found.offloaded_share < 1
