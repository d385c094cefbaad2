"""Fleets of many sites, small enough to run here."""

import pytest

from load.simulate.policies import POLICIES
from load.simulate.scale import UNIT, fleet, fleet_scenario, report_of
from load.simulate.world import simulate


def test_a_fleet_keeps_the_papers_proportions() -> None:
    size = fleet(1000, 10)
    assert (size.pd_sites, size.prfaas_sites) == (5, 5) and 940 < size.nodes <= 1000
    made = fleet_scenario(size, "threshold", load=0.5, duration_s=2.0, seed=1)
    assert sum(site.prefill.workers for site in made.prfaas) == size.units * UNIT.n_prfaas
    assert sum(site.decode.workers for site in made.pd) == size.units * UNIT.n_decode


@pytest.mark.parametrize(("nodes", "sites"), [(11, 2), (1000, 1), (24, 20)])
def test_a_fleet_that_is_too_small_is_refused(nodes: int, sites: int) -> None:
    with pytest.raises(ValueError, match=r"too few|needs a pd"):
        fleet(nodes, sites)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_serves_a_small_fleet_of_four_sites(policy: str) -> None:
    made = fleet_scenario(fleet(48, 4), policy, load=0.3, duration_s=20.0, seed=1)
    result = simulate(made)
    assert sorted(result.records) == ["pd0", "pd1"]
    assert sum(len(records) for records in result.records.values()) == sum(len(site.arrivals) for site in made.pd)
    report = report_of(result.records, 20.0)
    assert report.ttft is not None
    assert not report.errors or policy == "headroom", "it sheds a prompt that takes longer than the objective alone"
