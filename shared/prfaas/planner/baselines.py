"""Baselines of a plan: the paper's two (section 4.3), one that it lacks, and the pd site without a prfaas site."""

from math import isinf

from prfaas.planner.solver import Allocation, TwoSites, allocate, prefill_counts


def homogeneous(case: TwoSites, n_instances: int) -> Allocation:
    """Best split of `n_instances` of the pd site's kind without a prfaas site: Eq 4 at the mean length against Eq 5."""
    local = case._replace(n_prfaas=0, n_pd=n_instances)
    counts = prefill_counts(n_instances)
    # Prefill grows with N_p and decode falls, so the best split is next to where they meet: money may buy very many instances.
    one = _blind(local, 1, 0.0)
    prefill_req_s, decode_req_s = one.pd_prefill_req_s, case.decode_req_s(1)
    meet = 0 if isinf(prefill_req_s) else int(n_instances * (decode_req_s / (prefill_req_s + decode_req_s)))
    near = sorted({min(max(n_prefill, counts[0]), counts[-1]) for n_prefill in range(meet - 1, meet + 3)})
    return max((_blind(local, n_prefill, 0.0) for n_prefill in near), key=lambda at: at.throughput_req_s)


def naive_heterogeneous(case: TwoSites) -> Allocation:
    """Offloads every prefill; every pd instance decodes."""
    return _blind(case, 0, 1.0)


def balanced(case: TwoSites) -> Allocation:
    """Splits requests by prefill capacity, blind to their length: p = Theta_prfaas / (Theta_prfaas + Theta_pd-p) at the mean."""
    best: list[Allocation] = []
    for n_prefill in prefill_counts(case.n_pd):
        at = _blind(case, n_prefill, 0.5)
        local, remote = at.pd_prefill_req_s, at.prfaas_req_s
        if isinf(local):  # prompts that are cached as a whole cost nothing anywhere: there is nothing to offload
            share = 0.0
        elif isinf(remote):
            share = 1.0
        else:
            share = remote / (remote + local)
        best.append(_blind(case, n_prefill, share))
    return max(best, key=lambda at: at.throughput_req_s)


def _blind(case: TwoSites, n_prefill: int, share: float) -> Allocation:
    mean = case.lengths.mean_tokens
    return allocate(case, share=share, long_tokens=mean, short_tokens=mean, n_prefill=n_prefill, n_decode=case.n_pd - n_prefill)


def equal_cost_instances(case: TwoSites, prfaas_cost: float, pd_cost: float) -> int:
    """Number of pd instances that the money of both sites buys, rounded."""
    return round(case.n_pd + case.n_prfaas * prfaas_cost / pd_cost)
