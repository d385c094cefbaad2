"""The best split of a pd site's workers: N_p that prefill and N_d that decode, at which Eq 6 is largest (paper, 3.4.3).

The plan's solver asks the same of profiles; here everything is as it is observed now, and remote sites may be several.
"""

from collections.abc import Sequence
from typing import NamedTuple

from prfaas.capacity import equations
from prfaas.capacity.lengths import Lengths
from prfaas.capacity.threshold import PrefillStage, prefill_limit_req_s, solve_threshold


class Observed(NamedTuple):
    """The load, and what one worker of each role can do about it."""

    lengths: Lengths
    """Distribution of uncached tokens."""
    output_tokens: float
    """Mean length of answers."""
    local: PrefillStage
    """The local prefill workers; `workers` is N_p as it is now."""
    remotes: Sequence[PrefillStage]
    n_decode: int
    slots: float
    """Batch of one decode worker: BS_max."""
    step_s: float
    """T_decode(BS_max)."""
    threshold_tokens: float | None = None
    """The policy's fixed t; None: the best for each N_p."""

    @property
    def n_prefill(self) -> int:
        return int(self.local.workers)

    def prefill_req_s(self, n_prefill: int) -> float:
        """First two terms of Eq 6: what prefill carries."""
        local = self.local._replace(workers=n_prefill)
        t = self.threshold_tokens
        if t is None:
            t = solve_threshold(self.lengths, local, self.remotes)
        return prefill_limit_req_s(self.lengths, t, local, self.remotes)

    def decode_req_s(self, n_decode: int) -> float:
        """Third term of Eq 6, which is Eq 5: what decode carries."""
        return equations.pd_decode_req_s(n_decode, self.slots, self.step_s, self.output_tokens)


class Split(NamedTuple):
    n_prefill: int
    n_decode: int
    req_s: float
    """Lambda_max, Eq 6."""

    def __str__(self) -> str:
        return f"{self.n_prefill} + {self.n_decode}"


def split(observed: Observed, n_prefill: int) -> Split:
    n_decode = observed.n_prefill + observed.n_decode - n_prefill
    return Split(n_prefill, n_decode, min(observed.prefill_req_s(n_prefill), observed.decode_req_s(n_decode)))


def best_split(observed: Observed) -> Split:
    """The best split that leaves each role a worker; the site must have two. As N_p rises, prefill only gains and decode only
    loses, so the best is where the two cross, which bisection finds in a fleet of any size."""
    low, high = 1, observed.n_prefill + observed.n_decode - 1
    assert high >= 1, "a site with one worker has no choice"
    while low < high:
        middle = (low + high) // 2
        total = observed.n_prefill + observed.n_decode
        if observed.prefill_req_s(middle) >= observed.decode_req_s(total - middle):
            high = middle
        else:
            low = middle + 1
    around = [split(observed, n_prefill) for n_prefill in (low, low - 1) if n_prefill >= 1]
    return max(around, key=lambda found: found.req_s)
