import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prfaas.capacity.builtin import builtin_profile
from prfaas.capacity.equations import threshold_imbalance_req_s
from prfaas.capacity.lengths import EmpiricalLengths, TruncatedLogNormal
from prfaas.capacity.profiles import PrefillPoint, Profile
from prfaas.planner import baselines
from prfaas.planner.solver import Stage, TwoSites, at_threshold, best_threshold, solve_two_sites
from prfaas.planner.ttft import allocation_ttft, weighted
from tests.budget import examples


def test_the_papers_optimum_from_table_5_alone(paper_case: TwoSites) -> None:
    best = solve_two_sites(paper_case)
    assert (best.n_prefill, best.n_decode) == (3, 5)
    assert best.threshold_tokens is not None
    assert 19_000 < best.threshold_tokens < 19_800
    assert best.throughput_req_s == pytest.approx(3.24, rel=0.02)
    assert best.offloaded_share == pytest.approx(0.496, abs=0.006)
    assert 11.5 < best.egress_bytes_per_s * 8 / 1e9 < 13
    assert set(best.binds) == {Stage.PRFAAS_COMPUTE, Stage.PD_PREFILL}


def test_the_papers_table_6_from_the_anchored_profile(anchored_case: TwoSites) -> None:
    best = solve_two_sites(anchored_case)
    assert best.threshold_tokens == pytest.approx(19_400, rel=0.005)
    assert best.offloaded_share == pytest.approx(0.496, abs=0.001)
    assert best.prfaas_req_s == pytest.approx(1.61, abs=0.005)
    assert best.pd_prefill_req_s == pytest.approx(1.64, abs=0.005)
    assert best.pd_decode_req_s == pytest.approx(3.91, abs=0.005)
    assert best.throughput_req_s == pytest.approx(3.24, abs=0.015)
    assert best.egress_bytes_per_s * 8 / 1e9 == pytest.approx(12.2, abs=0.1)


def test_the_papers_baselines_and_the_one_it_lacks(anchored_case: TwoSites) -> None:
    homogeneous = baselines.homogeneous(anchored_case, 12)
    assert (homogeneous.n_prefill, homogeneous.n_decode) == (9, 3)
    assert homogeneous.throughput_req_s == pytest.approx(2.11, abs=0.005)
    naive = baselines.naive_heterogeneous(anchored_case)
    assert naive.throughput_req_s == pytest.approx(2.45, abs=0.005)
    assert naive.pd_decode_req_s == pytest.approx(6.25)
    balanced = baselines.balanced(anchored_case)
    assert balanced.throughput_req_s == pytest.approx(3.15, abs=0.01)
    best = solve_two_sites(anchored_case).throughput_req_s
    assert best / homogeneous.throughput_req_s == pytest.approx(1.54, abs=0.005)
    assert best / naive.throughput_req_s == pytest.approx(1.32, abs=0.01)


def test_equal_cost_at_twice_the_price_gives_the_papers_15_percent(anchored_case: TwoSites) -> None:
    same_money = baselines.homogeneous(anchored_case, baselines.equal_cost_instances(anchored_case, 2.0, 1.0))
    assert solve_two_sites(anchored_case).throughput_req_s / same_money.throughput_req_s == pytest.approx(1.15, abs=0.01)


def test_ttft_is_the_papers(paper_case: TwoSites) -> None:
    """P90 of the offloading arms needs nothing but Table 5 and the distribution."""
    ttft = allocation_ttft(paper_case, solve_two_sites(paper_case))
    assert ttft.p90_s == pytest.approx(3.51, abs=0.02)
    assert ttft.mean_s == pytest.approx(2.22, abs=0.03)
    assert allocation_ttft(paper_case, baselines.naive_heterogeneous(paper_case)).p90_s == pytest.approx(3.51, abs=0.02)
    homogeneous = allocation_ttft(paper_case, baselines.homogeneous(paper_case, 12))
    assert homogeneous.mean_s == pytest.approx(4.44, rel=0.01)
    assert homogeneous.p90_s == pytest.approx(9.73, rel=0.01)


def test_weighted_quantiles() -> None:
    assert weighted([(3.0, 1), (1.0, 8), (2.0, 1)]) == (1.3, 2.0)
    assert weighted([(5.0, 0.2)]) == (5.0, 5.0)
    with pytest.raises(ValueError, match="no request"):
        weighted([])


def test_the_sweeps_of_figure_5(anchored_case: TwoSites) -> None:
    """Best rate per N_p with t solved for each, and the fall on the right of t (derived values)."""
    per_n = [best_threshold(anchored_case, n).throughput_req_s for n in range(1, 8)]
    assert per_n == pytest.approx([2.78, 3.01, 3.25, 3.13, 2.35, 1.56, 0.78], abs=0.01)
    over_t = [at_threshold(anchored_case, t, 3).throughput_req_s for t in (5_000, 10_000, 15_000, 25_000, 30_000, 60_000)]
    assert over_t == pytest.approx([2.54, 2.75, 2.99, 2.35, 1.90, 1.03], abs=0.015)


@settings(max_examples=examples(40), deadline=None)
@given(
    mu=st.floats(min_value=7, max_value=10.5),
    sigma=st.floats(min_value=0.5, max_value=1.5),
    n_prfaas=st.integers(min_value=1, max_value=12),
    n_pd=st.integers(min_value=2, max_value=12),
    gbit_s=st.floats(min_value=0.1, max_value=200),
)
@pytest.mark.slow
def test_no_point_of_a_fine_grid_beats_the_solver(mu: float, sigma: float, n_prfaas: int, n_pd: int, gbit_s: float) -> None:
    case = TwoSites(
        lengths=TruncatedLogNormal(mu=mu, sigma=sigma, low_tokens=128, high_tokens=131072),
        output_tokens=512,
        prfaas=builtin_profile("paper-1t-h200"),
        n_prfaas=n_prfaas,
        pd=builtin_profile("paper-1t-h20"),
        n_pd=n_pd,
        egress_bytes_per_s=gbit_s * 1e9 / 8,
        decode_tokens_per_s=40,
    )
    best = solve_two_sites(case)
    grid = [case.lengths.quantile(step / 300) for step in range(301)]
    on_grid = max(at_threshold(case, t, n).throughput_req_s for t, n in itertools.product(grid, range(1, n_pd)))
    assert best.throughput_req_s >= on_grid * (1 - 1e-4)


def test_eq_7_holds_at_the_optimum(anchored_case: TwoSites) -> None:
    at = best_threshold(anchored_case, 3)
    assert threshold_imbalance_req_s(at.offloaded_share, at.prfaas_req_s, at.pd_prefill_req_s) == pytest.approx(0, abs=1e-3)


def test_a_thin_link_binds_and_is_filled(anchored_case: TwoSites) -> None:
    best = best_threshold(anchored_case._replace(egress_bytes_per_s=1e9 / 8), 5)
    assert set(best.binds) == {Stage.LINK, Stage.PD_PREFILL}
    assert best.egress_bytes_per_s * 8 / 1e9 == pytest.approx(1.0, rel=0.01)
    assert best.offloaded_share < 0.1


def test_without_link_or_prfaas_nothing_is_offloaded(anchored_case: TwoSites) -> None:
    local = baselines.homogeneous(anchored_case, 8).throughput_req_s
    for case in (anchored_case._replace(egress_bytes_per_s=0), anchored_case._replace(n_prfaas=0)):
        best = solve_two_sites(case)
        assert best.offloaded_share == 0
        assert best.throughput_req_s == pytest.approx(local)


def test_more_link_never_hurts(anchored_case: TwoSites) -> None:
    rates = [
        solve_two_sites(anchored_case._replace(egress_bytes_per_s=gbit_s * 1e9 / 8)).throughput_req_s
        for gbit_s in (0.5, 1, 2, 5, 10, 20, 100)
    ]
    assert rates == sorted(rates)
    assert rates[0] < rates[3] < rates[-1]


def test_lengths_of_a_few_values_are_solved_too(anchored_case: TwoSites) -> None:
    best = solve_two_sites(anchored_case._replace(lengths=EmpiricalLengths([0, 0, 500, 500, 50_000])))
    assert best.throughput_req_s > 0
    assert best.offloaded_share in (0.2, 0.6)


def test_a_dent_in_a_measured_profile_does_not_mislead(anchored_case: TwoSites) -> None:
    dented = Profile(
        name="dented",
        source="made up",
        prefill=tuple(
            PrefillPoint(tokens=tokens, prefill_s=prefill_s, kv_bytes=tokens * 1e4)
            for tokens, prefill_s in ((1000, 0.5), (10_000, 1.5), (12_000, 0.7), (60_000, 4.0))
        ),
    )
    case = anchored_case._replace(prfaas=dented)
    best = best_threshold(case, 3).throughput_req_s
    fine = max(at_threshold(case, case.lengths.quantile(step / 1000), 3).throughput_req_s for step in range(1001))
    assert best >= fine * 0.995


def test_a_pd_site_needs_two_instances(anchored_case: TwoSites) -> None:
    with pytest.raises(ValueError, match="an instance for prefill and one for decode"):
        solve_two_sites(anchored_case._replace(n_pd=1))
