"""Solver of the paper's program for one prfaas and one pd site: the threshold t and the split N_p / N_d that maximise Eq 6.

N_p runs over all splits that leave each role an instance. For each, Eq 7 gives t: the busy time that an average request brings
to the offloaded stage, p / Theta_prfaas, falls as t rises, that of the local stage rises, and they cross at the best t. A grid
over quantiles finds the bracket (so a measured profile with dents does no harm), Brent's method the crossing.
"""

from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise
from math import inf
from typing import NamedTuple

from scipy.optimize import brentq

from prfaas.capacity import equations
from prfaas.capacity.lengths import Lengths
from prfaas.capacity.profiles import Profile

GRID_STEPS = 64


class Stage(StrEnum):
    """Stages that can bind."""

    PRFAAS_COMPUTE = "prfaas_compute"
    LINK = "link"
    PD_PREFILL = "pd_prefill"
    PD_DECODE = "pd_decode"


class TwoSites(NamedTuple):
    """Input of the program: one prfaas site, one pd site, the link between them, the traffic and the SLO."""

    lengths: Lengths
    """Distribution of uncached input tokens."""
    output_tokens: float
    """Mean length of answers."""
    prfaas: Profile
    n_prfaas: int
    pd: Profile
    n_pd: int
    egress_bytes_per_s: float
    """Rate of the link from the prfaas to the pd site, B_out."""
    decode_tokens_per_s: float = 0.0
    """Rate that every running request must get (SLO); decides BS_max."""

    def decode_req_s(self, n_decode: int) -> float:
        """Eq 5 with BS_max from the SLO; 0 when no batch keeps it."""
        batch_max = self.pd.batch_max(self.decode_tokens_per_s)
        return equations.pd_decode_req_s(n_decode, batch_max, self.pd.step_s(batch_max), self.output_tokens)


class Allocation(NamedTuple):
    """Roles, and the rates that follow (req/s, in the paper's notation)."""

    threshold_tokens: float | None
    """Threshold t; None where requests are not split by length."""
    offloaded_share: float
    """Share p of requests."""
    long_tokens: float
    """Mean length of the offloaded requests, l_long."""
    short_tokens: float
    """Mean length of the others, l_short."""
    n_prfaas: int
    n_prefill: int
    n_decode: int
    prfaas_compute_req_s: float
    link_req_s: float
    pd_prefill_req_s: float
    pd_decode_req_s: float
    egress_bytes_per_s: float
    """Rate on the link at `throughput_req_s`."""

    @property
    def prfaas_req_s(self) -> float:
        """Theta_prfaas, Eq 3."""
        return min(self.prfaas_compute_req_s, self.link_req_s)

    @property
    def throughput_req_s(self) -> float:
        """Lambda_max, Eq 6."""
        return equations.throughput_req_s(self.offloaded_share, self.prfaas_req_s, self.pd_prefill_req_s, self.pd_decode_req_s)

    @property
    def limits_req_s(self) -> dict[Stage, float]:
        """Total request rate at which each stage is full."""
        p = self.offloaded_share
        return {
            Stage.PRFAAS_COMPUTE: equations.stage_limit_req_s(self.prfaas_compute_req_s, p),
            Stage.LINK: equations.stage_limit_req_s(self.link_req_s, p),
            Stage.PD_PREFILL: equations.stage_limit_req_s(self.pd_prefill_req_s, 1 - p),
            Stage.PD_DECODE: self.pd_decode_req_s,
        }

    @property
    def binds(self) -> tuple[Stage, ...]:
        """Stages that are full at the maximum, to half a per cent."""
        return tuple(stage for stage, limit in self.limits_req_s.items() if limit <= self.throughput_req_s * 1.005)


def allocate(
    case: TwoSites,
    *,
    share: float,
    long_tokens: float,
    short_tokens: float,
    n_prefill: int,
    n_decode: int,
    threshold_tokens: float | None = None,
) -> Allocation:
    """Equations 3 to 5 for given mean lengths of the offloaded `share` and of the rest."""
    kv_bytes = case.prfaas.kv_bytes(long_tokens)
    draft = Allocation(
        threshold_tokens=threshold_tokens,
        offloaded_share=share,
        long_tokens=long_tokens,
        short_tokens=short_tokens,
        n_prfaas=case.n_prfaas,
        n_prefill=n_prefill,
        n_decode=n_decode,
        prfaas_compute_req_s=equations.prfaas_req_s(case.n_prfaas, case.prfaas.prefill_s(long_tokens), inf, kv_bytes),
        link_req_s=equations.prfaas_req_s(inf, case.prfaas.prefill_s(long_tokens), case.egress_bytes_per_s, kv_bytes),
        pd_prefill_req_s=equations.pd_prefill_req_s(n_prefill, case.pd.prefill_s(short_tokens)),
        pd_decode_req_s=case.decode_req_s(n_decode),
        egress_bytes_per_s=0.0,
    )
    return draft._replace(egress_bytes_per_s=draft.throughput_req_s * share * kv_bytes)


def at_threshold(case: TwoSites, threshold_tokens: float, n_prefill: int) -> Allocation:
    """Equations 3 to 6 at a given t and N_p."""
    return allocate(
        case,
        threshold_tokens=threshold_tokens,
        share=case.lengths.share_above(threshold_tokens),
        long_tokens=case.lengths.mean_above(threshold_tokens),
        short_tokens=case.lengths.mean_below(threshold_tokens),
        n_prefill=n_prefill,
        n_decode=case.n_pd - n_prefill,
    )


def best_threshold(case: TwoSites, n_prefill: int) -> Allocation:
    """Eq 7: the t at which both prefill stages fill up together, for a given N_p.

    Decode does not enter: where it binds, this t leaves the two prefill stages the same headroom."""
    if not case.n_prfaas or not case.egress_bytes_per_s:
        return at_threshold(case, case.lengths.high_tokens, n_prefill)

    def imbalance_s(tokens: float) -> float:
        """Eq 7 with both sides turned over, so that it stays finite at p = 0 and p = 1."""
        at = at_threshold(case, tokens, n_prefill)
        return at.offloaded_share / at.prfaas_req_s - (1 - at.offloaded_share) / at.pd_prefill_req_s

    # Just below the shortest length everything is offloaded, at the longest nothing.
    grid = sorted(
        {max(case.lengths.low_tokens - 1, 0.0), *(case.lengths.quantile(step / GRID_STEPS) for step in range(GRID_STEPS + 1))}
    )
    found = [at_threshold(case, tokens, n_prefill) for tokens in grid]
    best = max(range(len(grid)), key=lambda index: _prefill_limit_req_s(found[index]))
    around = grid[max(best - 1, 0) : best + 2]
    for left, right in pairwise(around):
        if imbalance_s(left) * imbalance_s(right) < 0:
            found.append(at_threshold(case, brentq(imbalance_s, left, right, xtol=0.5), n_prefill))
    return max(found, key=_prefill_limit_req_s)


def prefill_counts(n_pd: int) -> Sequence[int]:
    """Lists all N_p that leave both roles an instance. Raises ValueError when there is none."""
    if n_pd < 2:
        raise ValueError(f"a pd site needs an instance for prefill and one for decode, but it has {n_pd}.")
    return range(1, n_pd)


def solve_two_sites(case: TwoSites) -> Allocation:
    """Returns the (t, N_p) that maximises Lambda_max; of equal ones, the smallest N_p. Raises ValueError."""
    return max((best_threshold(case, n_prefill) for n_prefill in prefill_counts(case.n_pd)), key=lambda at: at.throughput_req_s)


def _prefill_limit_req_s(at: Allocation) -> float:
    limits = at.limits_req_s
    return min(limits[Stage.PRFAAS_COMPUTE], limits[Stage.LINK], limits[Stage.PD_PREFILL])
