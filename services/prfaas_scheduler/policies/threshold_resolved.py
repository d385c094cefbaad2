"""Policy `threshold` with t solved again from what is observed (paper, section 3.4.3).

Every `resolve_every_s` Eq 7 is solved again: for the uncached lengths of the last requests, the prefill times and cache sizes
that the workers announce, and what the links carry now. So t rises within one interval when a link gets slow, and falls when it
recovers. The decision that solves takes a few milliseconds instead of some microseconds.

The paper's two routing rules differ in how they count cached prefixes: the pd site's own while bandwidth is scarce, the longest
of all while it is abundant. It is scarce while the links bind (Eq 3), and while nothing is known of them. What stays only because
of links that bind is `local_link_scarce`, not `local_short`.
"""

from collections import deque
from math import inf, sqrt

from prfaas.capacity.lengths import EmpiricalLengths
from prfaas.capacity.threshold import PrefillStage, prefill_limit_req_s, solve_threshold
from prfaas.contracts.terms import Outcome
from prfaas_scheduler.candidates import PrefillSite
from prfaas_scheduler.policies.base import Candidates, Choice
from prfaas_scheduler.policies.threshold import Threshold
from prfaas_scheduler.prefill_stage import local_stage, remote_stage
from prfaas_scheduler.prompt import Prompt

WINDOW_REQUESTS = 2048
MIN_REQUESTS = 64
MIN_GAIN = 0.05
"""Least relative gain for which t moves: moving costs a swing of both queues."""


def _worthwhile_gain(requests: int) -> float:
    """Least relative gain that is more than noise: n requests tell p and 1 - p of Eq 7 apart to about 2 / sqrt(n)."""
    return max(MIN_GAIN, 2 / sqrt(requests))


class ResolvedThreshold(Threshold):
    """Threshold that starts with the configured t, and keeps the last one while something that Eq 7 needs is not known."""

    def __init__(self, threshold_tokens: int, resolve_every_s: float) -> None:
        super().__init__(threshold_tokens)
        self.resolve_every_s = resolve_every_s
        self._lengths: deque[int] = deque(maxlen=WINDOW_REQUESTS)
        self._solve_at = -inf
        self._why = "as configured"
        self._abundant_tokens: int | None = None
        """The best t if links carried anything; None unless the links bind."""

    @property
    def fixed_threshold_tokens(self) -> float | None:
        return None

    def choose(self, prompt: Prompt, candidates: Candidates) -> Choice:
        # Solve again when it is due.
        local = candidates.local
        self._lengths.append(prompt.prefill_tokens if local is None else local.uncached_tokens)
        if local is not None and local.site.now_s >= self._solve_at and len(self._lengths) >= MIN_REQUESTS:
            self._solve_at = local.site.now_s + self.resolve_every_s
            self._resolve(local.site, [remote.site for remote in candidates.remotes])
        # Decide as a fixed threshold does, and tell apart what stays only because links bind.
        choice = super().choose(prompt, candidates)
        reason = f"{choice.reason}, {self._why}"
        abundant = self._abundant_tokens
        if choice.outcome is Outcome.LOCAL_SHORT and abundant is not None and self._lengths[-1] > abundant:
            return Choice(choice.candidate, Outcome.LOCAL_LINK_SCARCE, f"{reason}; if the links were faster, t = {abundant}")
        return choice._replace(reason=reason)

    def _resolve(self, local_site: PrefillSite, remote_sites: list[PrefillSite]) -> None:
        local = local_stage(local_site)
        remotes = [stage for site in remote_sites if (stage := remote_stage(site)) is not None]
        if local is None or not remotes:
            self.bandwidth_scarce = True
            return
        lengths = EmpiricalLengths(self._lengths)
        best = solve_threshold(lengths, local, remotes)
        best_req_s = prefill_limit_req_s(lengths, best, local, remotes)
        gain = _worthwhile_gain(len(self._lengths))
        if best_req_s > (1 + gain) * prefill_limit_req_s(lengths, self.threshold_tokens, local, remotes):
            self.threshold_tokens = best
            self._why = f"solved at {local_site.now_s:.0f} s from {len(self._lengths)} requests for {best_req_s:.2f} req/s"
        self._abundant_tokens = _without_links(lengths, local, remotes, best, (1 + gain) * best_req_s)
        self.bandwidth_scarce = self._abundant_tokens is not None


def _without_links(
    lengths: EmpiricalLengths, local: PrefillStage, remotes: list[PrefillStage], best: int, worthwhile_req_s: float
) -> int | None:
    """The best t if links carried anything; None where that gains less than is worthwhile."""
    unbounded = [stage._replace(egress_bytes_per_s=inf) for stage in remotes]
    long_tokens = lengths.mean_above(best)
    if all(stage.req_s(long_tokens) == free.req_s(long_tokens) for stage, free in zip(remotes, unbounded, strict=True)):
        return None
    abundant = solve_threshold(lengths, local, unbounded)
    return abundant if prefill_limit_req_s(lengths, abundant, local, unbounded) > worthwhile_req_s else None
