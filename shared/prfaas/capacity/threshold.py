"""Eq 7 on observed figures: the t at which both prefill stages fill up together. Needs no profile and no scipy.

The solver (`planner.solver`) answers a plan's question, over all N_p. Here the roles are given, and there may be several remote
sites. As there, a grid over quantiles finds the bracket: with T at the mean length, as the equations have it, a steep T and
many tiny prompts make more than one crossing. Bisection over whole tokens finds the crossing in it.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import inf
from typing import NamedTuple

from prfaas.capacity import equations
from prfaas.capacity.lengths import Lengths

GRID_STEPS = 32


class PrefillStage(NamedTuple):
    """Prefill workers of one site."""

    workers: float
    prefill_s: Callable[[float], float]
    """T_prefill(l)."""
    kv_bytes: Callable[[float], float]
    """S_kv(l)."""
    egress_bytes_per_s: float = inf
    """Egress to the pd site, B_out."""

    def req_s(self, tokens: float) -> float:
        """Eq 3; without an egress limit it is Eq 4."""
        return equations.prfaas_req_s(self.workers, self.prefill_s(tokens), self.egress_bytes_per_s, self.kv_bytes(tokens))


def prefill_limit_req_s(lengths: Lengths, threshold_tokens: float, local: PrefillStage, remotes: Sequence[PrefillStage]) -> float:
    """Eq 6 without decode, on which t does not depend: the rate at which the first of the prefill stages is full."""
    return min(_limits_req_s(lengths, threshold_tokens, local, remotes))


def solve_threshold(lengths: Lengths, local: PrefillStage, remotes: Sequence[PrefillStage]) -> int:
    """Returns the best t in whole tokens, which may lie between lengths that were seen. Remote sites add up (Eq 3 each)."""

    def carried_req_s(tokens: int) -> float:
        return prefill_limit_req_s(lengths, tokens, local, remotes)

    # Just below the shortest length everything is offloaded, at the longest nothing.
    quantiles = {int(lengths.quantile(step / GRID_STEPS)) for step in range(GRID_STEPS + 1)}
    grid = sorted({int(lengths.low_tokens) - 1, int(lengths.high_tokens), *quantiles})
    best = max(range(len(grid)), key=lambda index: carried_req_s(grid[index]))
    found = [grid[best]]
    for low, high in pairwise(grid[max(best - 1, 0) : best + 2]):
        while high - low > 1:
            middle = (low + high) // 2
            remote_req_s, local_req_s = _limits_req_s(lengths, middle, local, remotes)
            low, high = (low, middle) if remote_req_s > local_req_s else (middle, high)
        found += [low, high]
    return max(found, key=carried_req_s)


def _limits_req_s(
    lengths: Lengths, threshold_tokens: float, local: PrefillStage, remotes: Sequence[PrefillStage]
) -> tuple[float, float]:
    """Returns the two sides of Eq 7: Theta_prfaas / p and Theta_pd-p / (1 - p)."""
    p = lengths.share_above(threshold_tokens)
    remote_req_s = sum(stage.req_s(lengths.mean_above(threshold_tokens)) for stage in remotes)
    return (
        equations.stage_limit_req_s(remote_req_s, p),
        equations.stage_limit_req_s(local.req_s(lengths.mean_below(threshold_tokens)), 1 - p),
    )
