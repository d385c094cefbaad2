"""What a plan is held against: the paper's two baselines (section 4.3), one it lacks, and doing without a prfaas site."""

from prfaas.planner.solver import Allocation, TwoSites, allocate, prefill_counts


def homogeneous(case: TwoSites, n_instances: int) -> Allocation:
    """`n_instances` of the pd site's kind and no prfaas site: Eq 4 at the mean length against Eq 5, the best split."""
    local = case._replace(n_prfaas=0, n_pd=n_instances)
    return max((_blind(local, n_prefill, 0.0) for n_prefill in prefill_counts(n_instances)), key=lambda at: at.throughput_req_s)


def naive_heterogeneous(case: TwoSites) -> Allocation:
    """Every prefill offloaded, every pd instance decodes."""
    return _blind(case, 0, 1.0)


def balanced(case: TwoSites) -> Allocation:
    """Requests split by prefill capacity, blind to their length: p = Theta_prfaas / (Theta_prfaas + Theta_pd-p) at the mean."""
    best: list[Allocation] = []
    for n_prefill in prefill_counts(case.n_pd):
        at = _blind(case, n_prefill, 0.5)
        best.append(_blind(case, n_prefill, at.prfaas_req_s / (at.prfaas_req_s + at.pd_prefill_req_s)))
    return max(best, key=lambda at: at.throughput_req_s)


def _blind(case: TwoSites, n_prefill: int, share: float) -> Allocation:
    mean = case.lengths.mean_tokens
    return allocate(case, share=share, long_tokens=mean, short_tokens=mean, n_prefill=n_prefill, n_decode=case.n_pd - n_prefill)


def equal_cost_instances(case: TwoSites, prfaas_cost: float, pd_cost: float) -> int:
    """How many pd instances the money of both sites buys, rounded to whole ones."""
    return round(case.n_pd + case.n_prfaas * prfaas_cost / pd_cost)
