"""Report of a plan: the best allocation of a deployment, its baselines, and whether offloading pays."""

from collections.abc import Mapping
from math import inf, isinf

import msgspec

from prfaas.capacity.profiles import gbit_s
from prfaas.planner import baselines
from prfaas.planner.arms import Arm, arms
from prfaas.planner.deployment import Loaded, SiteTable
from prfaas.planner.mean_time import MeanTimeRates, mean_time_rates
from prfaas.planner.network import Load, Network, NetworkPlan, PlanError, check_network
from prfaas.planner.program import solve_network
from prfaas.planner.solver import TwoSites
from prfaas.planner.ttft import Ttft, weighted
from prfaas.planner.verdict import Rates, decide, ratio, why_network, why_pair


class SitePlan(msgspec.Struct, frozen=True, kw_only=True):
    site: str
    kind: str
    n_prefill: int
    n_decode: int
    prefill_utilisation: float
    decode_utilisation: float | None = None
    threshold_tokens: float | None = None
    """Threshold of a pd site: longer requests are offloaded."""
    offloaded_share: float | None = None


class LinkPlan(msgspec.Struct, frozen=True, kw_only=True):
    source: str
    destination: str
    gbit_s: float
    egress_gbit_s: float


class Extrapolation(msgspec.Struct, frozen=True, kw_only=True):
    """Profile whose last prefill point is shorter than the longest request: beyond it times are read off the extended line."""

    profile: str
    sites: tuple[str, ...]
    last_tokens: int
    longest_tokens: float
    times: float
    """Longest request over the last point."""
    request_share: float
    """Share of all requests that are longer than the last point."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    program: str
    """Either `two-site` (Equations 3 to 8, T at the mean length) or `network` (the mixed-integer program, the mean of T)."""
    threshold_tokens: float | None
    """Threshold t; None where several pd sites have one each: see `sites`."""
    offloaded_share: float
    n_prefill: int
    """Prefill instances of all pd sites."""
    n_decode: int
    throughput_req_s: float
    throughput_bound_req_s: float | None = None
    """Bound of the network program on any plan. It is above the throughput only when the solver's time was up."""
    egress_gbit_s: float
    """Egress over all links."""
    binds: tuple[str, ...]
    ttft_mean_s: float
    """Pure prefill latency at the routed instance, as in the paper: no queue, no transfer."""
    ttft_p90_s: float
    meets_slo: bool
    sites: tuple[SitePlan, ...]
    links: tuple[LinkPlan, ...]
    offloading_pays: bool
    verdict: str
    ratio_local_only: float | None
    """Throughput over that of the pd sites alone."""
    ratio_equal_cost: float | None
    """Throughput over that of pd instances for the money of all sites."""
    ratio_homogeneous: float | None = None
    """Throughput over that of as many instances, all of the pd kind. This and the rest: only for one prfaas and one pd site."""
    ratio_naive: float | None = None
    ratio_balanced: float | None = None
    arms: dict[str, Arm] = {}
    mean_time: MeanTimeRates | None = None
    """Rates of the same arms with the mean of T(L), where Equations 3 and 4 take T of the mean L."""
    extrapolated: tuple[Extrapolation, ...] = ()
    """Profiles that end before the traffic's longest request."""


def report(loaded: Loaded) -> Report:
    """Raises PlanError: where there is no plan, and where it would be an impossible one."""
    try:
        found = _report_pair(loaded) if loaded.deployment.is_pair else _report_network(loaded)
    except PlanError:
        raise
    except (ValueError, ArithmeticError) as error:
        raise PlanError(f"these figures make no plan: {str(error).rstrip('.')}.") from error
    found = msgspec.structs.replace(found, extrapolated=_extrapolated(loaded))
    _check_possible(found)
    return found


def _extrapolated(loaded: Loaded) -> tuple[Extrapolation, ...]:
    lengths = loaded.lengths
    sites: dict[str, list[str]] = {}
    for site in loaded.deployment.site:
        sites.setdefault(loaded.profiles[site.name].name, []).append(site.name)
    profiles = {profile.name: profile for profile in loaded.profiles.values()}
    return tuple(
        Extrapolation(
            profile=name,
            sites=tuple(sites[name]),
            last_tokens=profile.last_tokens,
            longest_tokens=lengths.high_tokens,
            times=lengths.high_tokens / profile.last_tokens,
            request_share=lengths.share_above(profile.last_tokens),
        )
        for name, profile in profiles.items()
        if lengths.high_tokens > profile.last_tokens
    )


def _check_possible(found: Report) -> None:
    """Raises PlanError for figures that no deployment can have: the input is then outside of what the equations hold for."""
    times = {"TTFT mean": found.ttft_mean_s, "TTFT P90": found.ttft_p90_s}
    rates = {"throughput": found.throughput_req_s, "egress": found.egress_gbit_s}
    shares = {"offloaded share": found.offloaded_share}
    for site in found.sites:
        shares |= {
            f"{site.site}, prefill busy": site.prefill_utilisation,
            f"{site.site}, decode busy": site.decode_utilisation or 0,
        }
    for name, value in (times | rates | shares).items():
        high = 1.01 if name in shares else inf
        if not 0 <= value <= high or isinf(value):
            raise PlanError(f"these figures make no plan: its {name} would be {value:g}.")
    if not found.throughput_req_s:
        raise PlanError("these figures make no plan: its throughput would be 0 req/s.")


def _report_pair(loaded: Loaded) -> Report:
    check_network(loaded.network())
    case = loaded.two_sites()
    (prfaas,), (pd,) = loaded.deployment.prfaas_sites, loaded.deployment.pd_sites
    found = arms(case)
    best = found["prfaas"]
    link = LinkPlan(
        source=prfaas.name, destination=pd.name, gbit_s=gbit_s(case.egress_bytes_per_s), egress_gbit_s=best.egress_gbit_s
    )
    same_money = baselines.homogeneous(case, baselines.equal_cost_instances(case, prfaas.cost, pd.cost))
    rate = best.throughput_req_s
    alone = found["local_only"]
    rates = Rates(rate, alone.throughput_req_s, same_money.throughput_req_s, Ttft(alone.ttft_mean_s, alone.ttft_p90_s))
    verdict = decide(loaded, rates, why_pair(case, best))
    return Report(
        program="two-site",
        threshold_tokens=best.threshold_tokens,
        offloaded_share=best.offloaded_share,
        n_prefill=best.n_prefill,
        n_decode=best.n_decode,
        throughput_req_s=rate,
        egress_gbit_s=best.egress_gbit_s,
        binds=best.binds,
        ttft_mean_s=best.ttft_mean_s,
        ttft_p90_s=best.ttft_p90_s,
        meets_slo=_meets_slo(loaded, best.ttft_p90_s),
        sites=_pair_sites(case, best, prfaas.name, pd.name),
        links=(link,),
        offloading_pays=verdict.startswith("yes"),
        verdict=verdict,
        ratio_local_only=rates.ratio_local_only,
        ratio_equal_cost=rates.ratio_equal_cost,
        ratio_homogeneous=ratio(rate, found["homogeneous"].throughput_req_s),
        ratio_naive=ratio(rate, found["naive"].throughput_req_s),
        ratio_balanced=ratio(rate, found["balanced"].throughput_req_s),
        arms=found,
        mean_time=mean_time_rates(case),
    )


def _pair_sites(case: TwoSites, best: Arm, prfaas: str, pd: str) -> tuple[SitePlan, SitePlan]:
    """Plans of the two sites, by their names."""
    rate, share = best.throughput_req_s, best.offloaded_share
    return (
        SitePlan(
            site=prfaas,
            kind="prfaas",
            n_prefill=case.n_prfaas,
            n_decode=0,
            prefill_utilisation=ratio(rate * share * case.prfaas.prefill_s(best.long_tokens), case.n_prfaas) or 0.0,
        ),
        SitePlan(
            site=pd,
            kind="pd",
            n_prefill=best.n_prefill,
            n_decode=best.n_decode,
            prefill_utilisation=rate * (1 - share) / best.pd_prefill_req_s,
            decode_utilisation=rate / best.pd_decode_req_s,
            threshold_tokens=best.threshold_tokens,
            offloaded_share=share,
        ),
    )


def _report_network(loaded: Loaded) -> Report:
    network, tables = loaded.network(), loaded.deployment
    plan = solve_network(network)
    local = _local_only(network)
    all_cost = sum(site.cost * site.instances for site in tables.site)
    pd_cost = sum(site.cost * site.instances for site in tables.pd_sites)
    rates = Rates(
        plan.throughput_req_s,
        local.throughput_req_s,
        local.throughput_req_s * all_cost / pd_cost,
        _network_ttft(network, local),
    )
    verdict = decide(loaded, rates, why_network(network, plan))
    used = {load.name: load for load in plan.loads}
    links = tuple(
        LinkPlan(
            source=link.source,
            destination=link.destination,
            gbit_s=gbit_s(link.bytes_per_s),
            egress_gbit_s=gbit_s(used[f"link {link.source}->{link.destination}"].used),
        )
        for link in network.links
    )
    ttft = _network_ttft(network, plan)
    return Report(
        program="network",
        threshold_tokens=plan.pd[0].threshold_tokens if len(plan.pd) == 1 else None,
        offloaded_share=sum(pd.offloaded_share * pd.decoded_req_s for pd in plan.pd) / plan.throughput_req_s,
        n_prefill=sum(pd.n_prefill for pd in plan.pd),
        n_decode=sum(pd.n_decode for pd in plan.pd),
        throughput_req_s=plan.throughput_req_s,
        throughput_bound_req_s=plan.bound_req_s,
        egress_gbit_s=sum(link.egress_gbit_s for link in links),
        binds=plan.binds,
        ttft_mean_s=ttft.mean_s,
        ttft_p90_s=ttft.p90_s,
        meets_slo=_meets_slo(loaded, ttft.p90_s),
        sites=tuple(_network_site(table, plan, used) for table in tables.site),
        links=links,
        offloading_pays=verdict.startswith("yes"),
        verdict=verdict,
        ratio_local_only=rates.ratio_local_only,
        ratio_equal_cost=rates.ratio_equal_cost,
    )


def _network_site(table: SiteTable, plan: NetworkPlan, used: Mapping[str, Load]) -> SitePlan:
    """`used`: loads by their names."""
    pd = next((each for each in plan.pd if each.name == table.name), None)
    return SitePlan(
        site=table.name,
        kind=table.kind,
        n_prefill=pd.n_prefill if pd else table.instances,
        n_decode=pd.n_decode if pd else 0,
        prefill_utilisation=used[f"prefill {table.name}"].utilisation,
        decode_utilisation=used[f"decode {table.name}"].utilisation if pd else None,
        threshold_tokens=pd.threshold_tokens if pd else None,
        offloaded_share=pd.offloaded_share if pd else None,
    )


def _local_only(network: Network) -> NetworkPlan:
    """Plans every pd site for itself."""
    return solve_network(network._replace(prfaas=(), links=()))


def _network_ttft(network: Network, plan: NetworkPlan) -> Ttft:
    profiles = {site.name: site.profile for site in network.sites}
    return weighted([(profiles[source].prefill_s(tokens), req_s) for source, _, tokens, req_s in plan.routes])


def _meets_slo(loaded: Loaded, p90_s: float) -> bool:
    """Checks the TTFT, if the SLO has one: the decode rate is kept by construction (BS_max)."""
    limit_s = loaded.deployment.slo.ttft_p90_s
    return limit_s is None or p90_s <= limit_s
