import pytest

from prfaas.capacity.lengths import EmpiricalLengths
from prfaas.capacity.profiles import PrefillPoint, Profile
from prfaas.planner import baselines
from prfaas.planner.mean_time import mean_time_rates
from prfaas.planner.network import Link, Network, PdSite, PrfaasSite
from prfaas.planner.program import solve_network
from prfaas.planner.solver import TwoSites, solve_two_sites


@pytest.mark.parametrize("gbit_s", [1, 5, 100])
def test_it_agrees_with_the_network_program(paper_case: TwoSites, gbit_s: float) -> None:
    case = paper_case._replace(egress_bytes_per_s=gbit_s * 1e9 / 8)
    rates = mean_time_rates(case)
    network = Network(
        [PrfaasSite("far", case.n_prfaas, case.prfaas)],
        [PdSite("near", case.n_pd, case.pd)],
        [Link("far", "near", case.egress_bytes_per_s)],
        case.lengths,
        case.output_tokens,
        case.decode_tokens_per_s,
    )
    plan = solve_network(network, bins=96)
    assert rates.prfaas == pytest.approx(plan.throughput_req_s, rel=3e-3)
    assert rates.n_prefill == plan.pd[0].n_prefill
    alone = solve_network(network._replace(prfaas=(), links=()), bins=96)
    assert rates.local_only == pytest.approx(alone.throughput_req_s, rel=3e-3)


def test_with_one_length_both_ways_of_counting_agree(paper_case: TwoSites) -> None:
    case = paper_case._replace(lengths=EmpiricalLengths([30_000]))
    rates = mean_time_rates(case)
    assert rates.homogeneous == pytest.approx(baselines.homogeneous(case, 12).throughput_req_s)
    assert rates.naive == pytest.approx(baselines.naive_heterogeneous(case).throughput_req_s)
    assert rates.balanced == pytest.approx(baselines.balanced(case).throughput_req_s)
    assert rates.local_only == pytest.approx(baselines.homogeneous(case, 8).throughput_req_s)


def test_queues_feel_more_than_the_equations_say(paper_case: TwoSites) -> None:
    """Jensen's inequality: the H20's T bends upward."""
    rates = mean_time_rates(paper_case)
    assert rates.prfaas < solve_two_sites(paper_case).throughput_req_s
    assert rates.homogeneous < baselines.homogeneous(paper_case, 12).throughput_req_s
    assert rates.balanced < rates.prfaas


def test_without_link_only_the_pd_site_works(paper_case: TwoSites) -> None:
    rates = mean_time_rates(paper_case._replace(egress_bytes_per_s=0))
    assert rates.prfaas == pytest.approx(rates.local_only)
    assert rates.naive == 0


def test_prompts_that_cost_nothing_leave_only_decoding(paper_case: TwoSites) -> None:
    """Wholly cached prompts on a machine without a fixed cost per prefill."""
    points = tuple(PrefillPoint(tokens=tokens, prefill_s=1e-4 * tokens, kv_bytes=1e4 * tokens) for tokens in (1, 1000))
    free = Profile(name="free", source="made up", prefill=points, decode=paper_case.pd.decode)
    case = paper_case._replace(lengths=EmpiricalLengths([0, 0]), prfaas=free, pd=free)
    rates = mean_time_rates(case)
    assert rates.prfaas == rates.local_only == pytest.approx(case.decode_req_s(7))
    assert solve_two_sites(case).throughput_req_s == pytest.approx(rates.prfaas)
