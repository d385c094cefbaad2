"""The mixed-integer program: its answers keep every constraint, and in the paper's case they agree with Equations 3 to 8."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prfaas.capacity.builtin import builtin_profile
from prfaas.capacity.lengths import EmpiricalLengths, Lengths, TruncatedLogNormal
from prfaas.capacity.profiles import DecodePoint, PrefillPoint, Profile
from prfaas.planner.network import Link, Network, NetworkPlan, PdSite, PlanError, PrfaasSite, length_bins
from prfaas.planner.program import solve_network
from prfaas.planner.solver import TwoSites, solve_two_sites
from tests.budget import examples

H200, H20 = builtin_profile("paper-1t-h200"), builtin_profile("paper-1t-h20")
PAPER = TruncatedLogNormal(mu=9.90, sigma=1.00, low_tokens=128, high_tokens=131072)


def straight(name: str, fixed_s: float, token_s: float) -> Profile:
    """T and S are straight lines, so the mean of T is T at the mean: both programs then solve the same problem."""
    return Profile(
        name=name,
        source="made up",
        prefill=tuple(
            PrefillPoint(tokens=tokens, prefill_s=fixed_s + token_s * tokens, kv_bytes=1e8 + 17_280 * tokens)
            for tokens in (1, 200_000)
        ),
        decode=(DecodePoint(batch=20, step_s=0.025),),
    )


def pair(network_links: float, prfaas: Profile, pd: Profile, n_prfaas: int, n_pd: int) -> Network:
    return Network(
        prfaas=[PrfaasSite("far", n_prfaas, prfaas)],
        pd=[PdSite("near", n_pd, pd)],
        links=[Link("far", "near", network_links * 1e9 / 8)],
        lengths=PAPER,
        output_tokens=1024,
        decode_tokens_per_s=40,
    )


@pytest.mark.parametrize("gbit_s", [2.0, 100.0])
@pytest.mark.parametrize(("n_prfaas", "n_pd"), [(4, 8), (2, 5), (8, 6)])
def test_with_straight_profiles_it_is_the_papers_program(gbit_s: float, n_prfaas: int, n_pd: int) -> None:
    fast, slow = straight("fast", 0.4, 5e-5), straight("slow", 0.5, 1.4e-4)
    plan = solve_network(pair(gbit_s, fast, slow, n_prfaas, n_pd))
    paper = solve_two_sites(TwoSites(PAPER, 1024, fast, n_prfaas, slow, n_pd, gbit_s * 1e9 / 8, 40))
    assert plan.throughput_req_s == pytest.approx(paper.throughput_req_s, rel=2e-3)
    assert plan.pd[0].n_prefill == paper.n_prefill
    assert plan.pd[0].threshold_tokens == pytest.approx(paper.threshold_tokens, rel=0.02)


def test_the_papers_case_with_the_mean_of_t() -> None:
    plan = solve_network(pair(100, H200, H20, 4, 8))
    assert (plan.pd[0].n_prefill, plan.pd[0].n_decode) == (3, 5)
    assert plan.throughput_req_s == pytest.approx(3.16, abs=0.02)
    assert 19_000 < plan.pd[0].threshold_tokens < 20_000
    assert set(plan.binds) == {"prefill far", "prefill near"}


def sites(draw: st.DrawFn) -> Network:
    prfaas = [PrfaasSite(f"far{i}", draw(st.integers(1, 6)), H200) for i in range(draw(st.integers(0, 3)))]
    n_pd = draw(st.integers(1, 3))
    shares: list[float | None] = [1 / n_pd] * n_pd if draw(st.booleans()) else [None] * n_pd
    pd = [PdSite(f"near{i}", draw(st.integers(2, 8)), H20, shares[i]) for i in range(n_pd)]
    links = [
        Link(source, to.name, draw(st.sampled_from([0.2, 2.0, 20.0])) * 1e9 / 8)
        for source in [site.name for site in prfaas] + [site.name for site in pd]
        for to in pd
        if source != to.name and draw(st.booleans())
    ]
    return Network(prfaas, pd, links, PAPER, 512, 40)


@settings(max_examples=examples(15), deadline=None)
@given(st.composite(sites)())
def test_every_plan_keeps_its_limits(network: Network) -> None:
    plan = solve_network(network, bins=16)
    check(plan, network)
    alone = solve_network(network._replace(prfaas=(), links=()), bins=16)
    assert plan.throughput_req_s >= alone.throughput_req_s * (1 - 2e-4)


def check(plan: NetworkPlan, network: Network) -> None:
    for load in plan.loads:
        assert load.used <= load.capacity * (1 + 1e-5) + 1e-5, load
    assert plan.throughput_req_s <= plan.bound_req_s * (1 + 1e-6)
    assert plan.bound_req_s <= plan.throughput_req_s * (1 + 3e-4)
    assert sum(pd.decoded_req_s for pd in plan.pd) == pytest.approx(plan.throughput_req_s, rel=1e-4)
    for site, pd in zip(network.pd, plan.pd, strict=True):
        assert pd.n_prefill >= 1
        assert pd.n_decode >= 1
        assert pd.n_prefill + pd.n_decode == site.instances
        if site.demand_share is not None:
            assert pd.decoded_req_s == pytest.approx(plan.throughput_req_s * site.demand_share, rel=1e-3)
        local = [tokens for source, to, tokens, _ in plan.routes if source == to == site.name]
        remote = [tokens for source, to, tokens, _ in plan.routes if source != to == site.name]
        assert max(local, default=0) <= min(remote, default=math.inf)


def test_a_second_prfaas_site_takes_what_the_first_ones_link_cannot() -> None:
    one = pair(2, H200, H20, 4, 8)
    two = one._replace(prfaas=[*one.prfaas, PrfaasSite("further", 4, H200)], links=[*one.links, Link("further", "near", 2e9 / 8)])
    with_one, with_two = solve_network(one), solve_network(two)
    assert "link far->near" in with_one.binds
    assert with_two.throughput_req_s > with_one.throughput_req_s * 1.05


def test_a_pd_site_can_prefill_for_another() -> None:
    network = Network(
        prfaas=[],
        pd=[PdSite("big", 12, H20, 0.2), PdSite("small", 4, H20, 0.8)],
        links=[Link("big", "small", 10e9 / 8)],
        lengths=PAPER,
        output_tokens=256,
        decode_tokens_per_s=40,
    )
    apart = solve_network(network._replace(links=[]))
    joined = solve_network(network)
    assert joined.throughput_req_s > apart.throughput_req_s * 1.2
    assert joined.pd[1].offloaded_share > 0.1


def test_ten_sites_are_solved() -> None:
    prfaas = [PrfaasSite(f"far{i}", 4 + i, H200) for i in range(4)]
    pd = [PdSite(f"near{i}", 6 + 2 * i, H20, 1 / 6) for i in range(6)]
    links = [Link(source.name, to.name, 1e9 * (1 + i)) for i, source in enumerate(prfaas) for to in pd]
    network = Network(prfaas, pd, links, PAPER, 1024, 40)
    plan = solve_network(network)
    check(plan, network)
    thresholds = [pd.threshold_tokens for pd in plan.pd]
    assert thresholds == sorted(thresholds), "the more instances a site has for the same demand, the less it offloads"


@pytest.mark.parametrize("lengths", [PAPER, EmpiricalLengths([0, 0, 3, 700, 700, 9000]), EmpiricalLengths([5])])
def test_bins_keep_all_requests_and_all_tokens(lengths: Lengths) -> None:
    bins = length_bins(lengths)
    assert sum(part.share for part in bins) == pytest.approx(1)
    assert sum(part.share * part.mean_tokens for part in bins) == pytest.approx(lengths.mean_tokens)
    assert all(part.low_tokens <= part.mean_tokens <= part.high_tokens for part in bins)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pd": []}, "nobody would decode"),
        ({"pd": [PdSite("near", 1, H20)]}, "one for decode"),
        ({"links": [Link("far", "far", 1)]}, "must lead from"),
        ({"links": [Link("near", "far", 1)]}, "must lead from"),
        ({"links": [Link("far", "near", 1), Link("far", "near", 1)]}, "given twice"),
        ({"pd": [PdSite("far", 4, H20)]}, "name of its own"),
        ({"pd": [PdSite("near", 4, H20, 0.5)]}, "add up to 1"),
    ],
)
def test_an_inconsistent_network_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        solve_network(pair(100, H200, H20, 4, 8)._replace(**change))  # type: ignore[arg-type]
