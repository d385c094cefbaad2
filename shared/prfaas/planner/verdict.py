"""Verdict on whether offloading pays, as a sentence with its reason."""

from math import inf
from typing import NamedTuple

from prfaas.capacity.equations import cluster_egress_bytes_per_s
from prfaas.capacity.profiles import gbit_s
from prfaas.planner.arms import Arm
from prfaas.planner.deployment import Loaded
from prfaas.planner.network import Network, NetworkPlan
from prfaas.planner.solver import Stage, TwoSites
from prfaas.planner.ttft import Ttft

PAYS_FROM = 1.02
"""Gains below 2 % are within what a profile can be off."""


class Rates(NamedTuple):
    """Rates that the verdict weighs, in req/s."""

    best: float
    local_only: float
    equal_cost: float
    local_ttft: Ttft

    @property
    def ratio_local_only(self) -> float | None:
        return ratio(self.best, self.local_only)

    @property
    def ratio_equal_cost(self) -> float | None:
        return ratio(self.best, self.equal_cost)


def decide(loaded: Loaded, rates: Rates, why: str) -> str:
    """Returns a sentence that begins with yes or no."""
    demand, slo_s = loaded.deployment.traffic.rate_req_s, loaded.deployment.slo.ttft_p90_s
    alone = f"{rates.local_only:.2f} req/s"
    if demand is not None and rates.local_only >= demand and (slo_s is None or rates.local_ttft.p90_s <= slo_s):
        return f"no: the pd sites alone carry {alone}, and the traffic is {demand:g}."
    gain, value = rates.ratio_local_only or inf, rates.ratio_equal_cost or inf
    if gain < PAYS_FROM:
        return f"no: offloading brings {gain:.2f}x of what the pd sites do alone. {why}"
    if value < PAYS_FROM:
        return (
            f"no: offloading brings {gain:.2f}x of what the pd sites do alone, but only {value:.2f}x of what pd instances "
            f"for the same money would do. {why}"
        )
    return f"yes: {gain:.2f}x of what the pd sites do alone, {value:.2f}x of what pd instances for the same money would do. {why}"


def why_pair(case: TwoSites, best: Arm) -> str:
    if not case.n_prfaas or not best.offloaded_share:
        return "Nothing is offloaded."
    kv_bytes, prefill_s = case.prfaas.kv_bytes(best.long_tokens), case.prfaas.prefill_s(best.long_tokens)
    wanted_gbit_s = gbit_s(cluster_egress_bytes_per_s(case.n_prfaas, 1, kv_bytes, prefill_s))
    link_gbit_s = gbit_s(case.egress_bytes_per_s)
    demand = (
        f"Busy, {case.n_prfaas} prefill instances make {wanted_gbit_s:.1f} Gbit/s of KV at {best.long_tokens:,.0f} tokens "
        f"(Eq 2), and the link carries {link_gbit_s:g}"
    )
    if Stage.LINK in best.binds:
        return f"{demand}: it keeps {link_gbit_s / wanted_gbit_s:.0%} of them busy."
    if Stage.PD_DECODE in best.binds:
        return f"{demand}; decode binds, so more prefill brings nothing."
    return f"{demand}."


def why_network(network: Network, plan: NetworkPlan) -> str:
    if not network.prfaas or not network.links:
        return "There is no link over which to offload."
    full = [name for name in plan.binds if name.startswith("link ")]
    return f"{', '.join(full)} full." if full else f"What binds: {', '.join(plan.binds) or 'nothing'}."


def ratio(one: float, other: float) -> float | None:
    return one / other if other > 0 else None
