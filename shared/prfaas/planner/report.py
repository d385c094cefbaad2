"""What a plan says: the best allocation of a deployment, what it is held against, and whether offloading pays."""

import msgspec

from prfaas.capacity.profiles import gbit_s
from prfaas.planner import baselines
from prfaas.planner.arms import Arm, arms
from prfaas.planner.deployment import Loaded
from prfaas.planner.mean_time import MeanTimeRates, mean_time_rates
from prfaas.planner.network import Network, NetworkPlan, check_network
from prfaas.planner.program import solve_network
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
    """Of a pd site: longer requests are offloaded."""
    offloaded_share: float | None = None


class LinkPlan(msgspec.Struct, frozen=True, kw_only=True):
    source: str
    destination: str
    gbit_s: float
    egress_gbit_s: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    program: str
    """`two-site` (Equations 3 to 8, T at the mean length) or `network` (the mixed-integer program, the mean of T)."""
    threshold_tokens: float | None
    """None where several pd sites have one each: see `sites`."""
    offloaded_share: float
    n_prefill: int
    """Prefill instances of all pd sites."""
    n_decode: int
    throughput_req_s: float
    throughput_bound_req_s: float | None = None
    """Of the network program: no plan can do better. Above the throughput only when the solver's time was up."""
    egress_gbit_s: float
    """Over all links."""
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
    """Over that of pd instances for the money of all sites."""
    ratio_homogeneous: float | None = None
    """Over that of as many instances, all of the pd kind. This and the rest: only for one prfaas and one pd site."""
    ratio_naive: float | None = None
    ratio_balanced: float | None = None
    arms: dict[str, Arm] = {}
    mean_time: MeanTimeRates | None = None
    """The same arms with the mean of T(L), where Equations 3 and 4 take T of the mean L."""


def report(loaded: Loaded) -> Report:
    """Raises PlanError, ValueError."""
    return _report_pair(loaded) if loaded.deployment.is_pair else _report_network(loaded)


def _report_pair(loaded: Loaded) -> Report:
    check_network(loaded.network())
    case = loaded.two_sites()
    (prfaas,), (pd,) = loaded.deployment.prfaas_sites, loaded.deployment.pd_sites
    found = arms(case)
    best = found["prfaas"]
    same_money = baselines.homogeneous(case, baselines.equal_cost_instances(case, prfaas.cost, pd.cost))
    rate, share = best.throughput_req_s, best.offloaded_share
    alone = found["local_only"]
    rates = Rates(rate, alone.throughput_req_s, same_money.throughput_req_s, Ttft(alone.ttft_mean_s, alone.ttft_p90_s))
    verdict = decide(loaded, rates, why_pair(case, best))
    return Report(
        program="two-site",
        threshold_tokens=best.threshold_tokens,
        offloaded_share=share,
        n_prefill=best.n_prefill,
        n_decode=best.n_decode,
        throughput_req_s=rate,
        egress_gbit_s=best.egress_gbit_s,
        binds=best.binds,
        ttft_mean_s=best.ttft_mean_s,
        ttft_p90_s=best.ttft_p90_s,
        meets_slo=_meets_slo(loaded, best.ttft_p90_s),
        sites=(
            SitePlan(
                site=prfaas.name,
                kind="prfaas",
                n_prefill=case.n_prfaas,
                n_decode=0,
                prefill_utilisation=ratio(rate * share * case.prfaas.prefill_s(best.long_tokens), case.n_prfaas) or 0.0,
            ),
            SitePlan(
                site=pd.name,
                kind="pd",
                n_prefill=best.n_prefill,
                n_decode=best.n_decode,
                prefill_utilisation=rate * (1 - share) / best.pd_prefill_req_s,
                decode_utilisation=rate / best.pd_decode_req_s,
                threshold_tokens=best.threshold_tokens,
                offloaded_share=share,
            ),
        ),
        links=(
            LinkPlan(
                source=prfaas.name,
                destination=pd.name,
                gbit_s=gbit_s(case.egress_bytes_per_s),
                egress_gbit_s=best.egress_gbit_s,
            ),
        ),
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
    by_name = {pd.name: pd for pd in plan.pd}
    sites = []
    for table in tables.site:
        pd = by_name.get(table.name)
        sites.append(
            SitePlan(
                site=table.name,
                kind=table.kind,
                n_prefill=pd.n_prefill if pd else table.instances,
                n_decode=pd.n_decode if pd else 0,
                prefill_utilisation=used[f"prefill {table.name}"].utilisation,
                decode_utilisation=used[f"decode {table.name}"].utilisation if pd else None,
                threshold_tokens=pd.threshold_tokens if pd else None,
                offloaded_share=pd.offloaded_share if pd else None,
            )
        )
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
        sites=tuple(sites),
        links=links,
        offloading_pays=verdict.startswith("yes"),
        verdict=verdict,
        ratio_local_only=rates.ratio_local_only,
        ratio_equal_cost=rates.ratio_equal_cost,
    )


def _local_only(network: Network) -> NetworkPlan:
    """With every pd site for itself."""
    return solve_network(network._replace(prfaas=(), links=()))


def _network_ttft(network: Network, plan: NetworkPlan) -> Ttft:
    profiles = {site.name: site.profile for site in network.sites}
    return weighted([(profiles[source].prefill_s(tokens), req_s) for source, _, tokens, req_s in plan.routes])


def _meets_slo(loaded: Loaded, p90_s: float) -> bool:
    """The decode rate is kept by construction (BS_max); what remains is the TTFT, if the SLO has one."""
    limit_s = loaded.deployment.slo.ttft_p90_s
    return limit_s is None or p90_s <= limit_s
