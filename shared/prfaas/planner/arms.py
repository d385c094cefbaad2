"""Ways to run the paper's two sites, side by side in the terms of its Table 6."""

import msgspec

from prfaas.capacity.profiles import gbit_s
from prfaas.planner import baselines
from prfaas.planner.solver import Allocation, TwoSites, solve_two_sites
from prfaas.planner.ttft import allocation_ttft


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    threshold_tokens: float | None
    offloaded_share: float
    long_tokens: float
    n_prfaas: int
    n_prefill: int
    n_decode: int
    prfaas_req_s: float
    link_req_s: float
    pd_prefill_req_s: float
    pd_decode_req_s: float
    throughput_req_s: float
    egress_gbit_s: float
    ttft_mean_s: float
    ttft_p90_s: float
    binds: tuple[str, ...]


def arm(case: TwoSites, at: Allocation) -> Arm:
    ttft = allocation_ttft(case, at)
    return Arm(
        threshold_tokens=at.threshold_tokens,
        offloaded_share=at.offloaded_share,
        long_tokens=at.long_tokens,
        n_prfaas=at.n_prfaas,
        n_prefill=at.n_prefill,
        n_decode=at.n_decode,
        prfaas_req_s=at.prfaas_req_s,
        link_req_s=at.link_req_s,
        pd_prefill_req_s=at.pd_prefill_req_s,
        pd_decode_req_s=at.pd_decode_req_s,
        throughput_req_s=at.throughput_req_s,
        egress_gbit_s=gbit_s(at.egress_bytes_per_s),
        ttft_mean_s=ttft.mean_s,
        ttft_p90_s=ttft.p90_s,
        binds=at.binds,
    )


def arms(case: TwoSites) -> dict[str, Arm]:
    return {
        "prfaas": arm(case, solve_two_sites(case)),
        "homogeneous": arm(case, baselines.homogeneous(case, case.n_prfaas + case.n_pd)),
        "naive": arm(case, baselines.naive_heterogeneous(case)),
        "balanced": arm(case, baselines.balanced(case)),
        "local_only": arm(case, baselines.homogeneous(case, case.n_pd)),
    }
