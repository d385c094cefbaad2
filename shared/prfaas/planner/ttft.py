"""Time to first token as in the paper's Table 6: the pure prefill latency at the instance that a request is sent to.

Queueing, transfer and network are left out: only then do mean and P90 of the table come out, in spite of section 4.3.2.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

from prfaas.capacity.lengths import Lengths, quantile_midpoints
from prfaas.capacity.profiles import Profile
from prfaas.planner.solver import Allocation, TwoSites

BINS = 2048


class Ttft(NamedTuple):
    mean_s: float
    p90_s: float


def prefill_latency(lengths: Lengths, places: Callable[[float], Iterable[tuple[float, Profile]]]) -> Ttft:
    """Returns mean and 90th percentile of T_prefill(L); `places(l)` gives the share of requests of length l per profile."""
    return weighted(
        [
            (profile.prefill_s(tokens), share)
            for tokens in quantile_midpoints(lengths, BINS)
            for share, profile in places(tokens)
            if share > 0
        ]
    )


def weighted(latencies: Sequence[tuple[float, float]]) -> Ttft:
    """Returns mean and 90th percentile of (latency in s, weight) pairs. Raises ValueError when there is no weight."""
    ordered = sorted(latencies)
    total = sum(weight for _, weight in ordered)
    if not total:
        raise ValueError("there is no request to take a latency of.")
    reached = accumulate(weight for _, weight in ordered)
    within = (latency_s for (latency_s, _), sum_so_far in zip(ordered, reached, strict=True) if sum_so_far >= 0.9 * total)
    p90_s = next(within, ordered[-1][0])
    return Ttft(sum(latency_s * weight for latency_s, weight in ordered) / total, p90_s)


def allocation_ttft(case: TwoSites, at: Allocation) -> Ttft:
    def places(tokens: float) -> Iterable[tuple[float, Profile]]:
        if at.threshold_tokens is None:
            return ((at.offloaded_share, case.prfaas), (1 - at.offloaded_share, case.pd))
        return ((1.0, case.prfaas if tokens > at.threshold_tokens else case.pd),)

    return prefill_latency(case.lengths, places)
