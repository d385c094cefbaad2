"""Our policy in simulations: idle machines are used, shared sites are not rushed to, and a link that is back is used again."""

from load.arrivals import poisson
from load.simulate.cases import cases
from load.simulate.compare import run
from load.simulate.paper import DEPLOYMENTS, LENGTHS, OUTPUT_TOKENS, mean_work_capacity, scenario
from load.simulate.policies import scheduler_keys
from load.simulate.scale import fleet, fleet_scenario, report_of
from load.simulate.scenario import LinkSpec
from load.simulate.world import simulate

FULL = 100e9 / 8


def test_at_a_light_load_short_prompts_use_the_fast_machines_that_are_idle() -> None:
    case = cases(0.2, duration_s=300.0)["azure"]()
    alone, ours = (run(case, policy).report for policy in ("local_only", "priced"))
    assert ours.prefill_sites["far"] > ours.prefill_sites.get("home", 0)
    assert alone.ttft is not None and ours.ttft is not None
    assert ours.ttft.p50_s < 0.85 * alone.ttft.p50_s and ours.ttft.p90_s < 0.7 * alone.ttft.p90_s


def test_schedulers_that_share_their_prefill_sites_do_not_rush_to_the_same_one() -> None:
    papers, ours = (
        report_of(simulate(fleet_scenario(fleet(96, 4), policy, load=0.9, duration_s=100.0, seed=1)).records, 100.0)
        for policy in ("threshold", "priced")
    )
    assert ours.goodput_req_s >= 0.98 * papers.goodput_req_s
    assert papers.ttft is not None and ours.ttft is not None and ours.ttft.mean_s <= 1.1 * papers.ttft.mean_s


def test_offloading_resumes_soon_after_a_link_is_repaired() -> None:
    """No request fails while the link is cut."""
    cut_s, repaired_s = 60.0, 90.0
    rate_req_s = 0.6 * mean_work_capacity(DEPLOYMENTS["threshold"]).req_s
    arrivals = poisson(LENGTHS, rate_req_s=rate_req_s, duration_s=150.0, output_tokens=OUTPUT_TOKENS, seed=1)
    link = LinkSpec(rates=((0.0, FULL), (cut_s, 0.0), (repaired_s, FULL)))
    made = scenario(DEPLOYMENTS["threshold"], arrivals, keys=scheduler_keys("priced", 19_400), link=link)
    (records,) = simulate(made).records.values()
    assert not any(record.error for record in records)
    offloaded_s = [record.arrival.arrival_s for record in records if record.outcome == "offloaded"]
    assert not any(cut_s + 2 < at_s < repaired_s for at_s in offloaded_s)
    assert repaired_s < min(at_s for at_s in offloaded_s if at_s > cut_s + 2) < repaired_s + 10.0
