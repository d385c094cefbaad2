"""Rates of the arms with the mean of T(L) over all lengths, where Equations 3 and 4 take T at the mean length.

A queue feels the mean of T. Where T bends upward that is more than T of the mean, so these rates are lower. A run with real
arrivals is to be compared with them.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from prfaas.capacity import equations
from prfaas.capacity.lengths import quantile_midpoints
from prfaas.planner.solver import TwoSites, prefill_counts

BINS = 2048


class MeanTimeRates(NamedTuple):
    """Lambda_max of each arm, in req/s."""

    prfaas: float
    threshold_tokens: float
    n_prefill: int
    homogeneous: float
    naive: float
    balanced: float
    local_only: float


def mean_time_rates(case: TwoSites) -> MeanTimeRates:
    lengths = quantile_midpoints(case.lengths, BINS)
    remote_s, local_s, kv_bytes = (
        _mean_above(lengths, cost) for cost in (case.prfaas.prefill_s, case.pd.prefill_s, case.prfaas.kv_bytes)
    )
    # Index `cut`: the time that an average request brings to each stage when lengths[cut:] are offloaded.
    compute, link = _rate(case.n_prfaas, remote_s), _rate(case.egress_bytes_per_s, kv_bytes)
    offloaded = np.minimum(compute, link)
    best, best_cut, best_n = 0.0, BINS, 1
    for n_prefill in prefill_counts(case.n_pd):
        prefill = np.minimum(offloaded, _rate(n_prefill, local_s[0] - local_s))
        cut = int(prefill.argmax())
        rate = min(float(prefill[cut]), case.decode_req_s(case.n_pd - n_prefill))
        if rate > best:
            best, best_cut, best_n = rate, cut, n_prefill

    blind = float(offloaded[0])

    def split(n_pd: int, remote_req_s: float) -> float:
        return max(
            min(remote_req_s + equations.pd_prefill_req_s(n_prefill, float(local_s[0])), case.decode_req_s(n_pd - n_prefill))
            for n_prefill in prefill_counts(n_pd)
        )

    return MeanTimeRates(
        prfaas=best,
        threshold_tokens=lengths[best_cut - 1] if best_cut else 0.0,
        n_prefill=best_n,
        homogeneous=split(case.n_prfaas + case.n_pd, 0.0),
        naive=min(blind, case.decode_req_s(case.n_pd)),
        balanced=split(case.n_pd, blind),
        local_only=split(case.n_pd, 0.0),
    )


def _mean_above(lengths: Sequence[float], cost: Callable[[float], float]) -> "np.ndarray":
    """Returns, by `cut`, the mean over all requests of a `cost` that only lengths[cut:] have; BINS + 1 values, the last 0."""
    costs = np.array([cost(tokens) for tokens in lengths])
    return np.append(np.cumsum(costs[::-1])[::-1], 0.0) / len(lengths)


def _rate(capacity: float, cost: "np.ndarray") -> "np.ndarray":
    """Divides capacity by cost; infinite where there is nothing to do."""
    rates = np.full_like(cost, np.inf)
    np.divide(capacity, cost, out=rates, where=cost > 0)
    return rates
