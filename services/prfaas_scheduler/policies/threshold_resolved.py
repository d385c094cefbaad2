"""Policy `threshold` under the paper's short-term control (section 3.4.3): t follows what is observed.

Slow part, every `resolve_every_s`: the best t is solved for the uncached lengths of the last requests, the prefill times and
cache sizes that the workers announce, and what the links carry now. It takes the mean of T over the lengths. t moves only for a
gain beyond the noise of as many requests: a sample's best t is not the traffic's.

Fast part, every second: where the queue of one side surges over the other's, or what is on the way fills a link, t moves by a
factor, within bounds, and comes back when both are calm. Between the two limits nothing moves: that is the hysteresis. A link
counts for less where its estimate is unsure or old, or where it resends.

The paper's two routing rules differ in how they count cached prefixes: the pd site's own while bandwidth is scarce, the longest
of all while it is abundant. It is scarce while the links bind (Eq 3), and while nothing is known of them. What stays only because
of links that bind is `local_link_scarce`, not `local_short`.
"""

from collections import deque
from math import inf, sqrt

from prfaas.capacity.mean_work import mean_work_limits
from prfaas.capacity.threshold import PrefillStage
from prfaas.contracts.terms import Outcome
from prfaas_scheduler.candidates import Candidate, PrefillSite
from prfaas_scheduler.policies.base import Candidates, Choice
from prfaas_scheduler.policies.threshold import Threshold
from prfaas_scheduler.prefill_stage import local_stage, remote_stage
from prfaas_scheduler.prompt import Prompt

WINDOW_REQUESTS = 2048
MIN_REQUESTS = 64
MIN_GAIN = 0.03
"""Least relative gain for which t moves: moving costs a swing of both queues."""
NOISE = 3.0
"""Least gain in units of 1 / sqrt(requests): the spread of a request's work is about its mean."""
CONTROL_EVERY_S = 1.0
SURGE_S = 3.0
"""Difference of the two sides' waits from which t moves."""
CALM_S = 1.0
"""Difference below which it comes back."""
STEP = 1.1
MAX_FACTOR = 1.5
"""Bound of the fast part's factor, and of its inverse: further away both stages lose more than a queue costs."""
BACK = 0.8
"""Share of the factor's logarithm that a calm second leaves."""


def _worthwhile_gain(requests: int) -> float:
    """Least relative gain that is more than noise."""
    return max(MIN_GAIN, NOISE / sqrt(requests))


class ResolvedThreshold(Threshold):
    """Threshold that starts with the configured t, and keeps the last one while something that a solve needs is not known."""

    def __init__(self, threshold_tokens: int, resolve_every_s: float) -> None:
        super().__init__(threshold_tokens)
        self.resolve_every_s = resolve_every_s
        self.solved_tokens = threshold_tokens
        """The slow part's t."""
        self.factor = 1.0
        """The fast part's factor."""
        self._lengths: deque[int] = deque(maxlen=WINDOW_REQUESTS)
        self._solve_at = self._control_at = -inf
        self._why = "as configured"
        self._abundant_tokens: int | None = None
        """The best t if links carried anything; None unless the links bind."""

    @property
    def fixed_threshold_tokens(self) -> float | None:
        return None

    def choose(self, prompt: Prompt, candidates: Candidates) -> Choice:
        # Control when it is due.
        local = candidates.local
        self._lengths.append(prompt.prefill_tokens if local is None else local.uncached_tokens)
        if local is not None and local.site.now_s >= self._solve_at and len(self._lengths) >= MIN_REQUESTS:
            self._solve_at = local.site.now_s + self.resolve_every_s
            self._resolve(local.site, [remote.site for remote in candidates.remotes])
        if local is not None and local.site.now_s >= self._control_at:
            self._control_at = local.site.now_s + CONTROL_EVERY_S
            self._control(local, candidates.remotes)
        # Decide as a fixed threshold does, and tell apart what stays only because links bind.
        choice = super().choose(prompt, candidates)
        reason = f"{choice.reason}, {self._why}"
        abundant = self._abundant_tokens
        if choice.outcome is Outcome.LOCAL_SHORT and abundant is not None and self._lengths[-1] > abundant:
            return Choice(choice.candidate, Outcome.LOCAL_LINK_SCARCE, f"{reason}; if the links were faster, t = {abundant}")
        return choice._replace(reason=reason)

    def _control(self, local: Candidate, remotes: list[Candidate]) -> None:
        """Moves the factor by the difference of the waits; more than one remote site counts with its shortest wait."""
        waits_s = [wait_s for remote in remotes if (wait_s := _wait_s(remote.site)) is not None]
        surge_s = min(waits_s) - local.site.own_wait_s if waits_s else 0.0
        if abs(surge_s) >= SURGE_S:
            self.factor *= STEP if surge_s > 0 else 1 / STEP
            self.factor = min(max(self.factor, 1 / MAX_FACTOR), MAX_FACTOR)
        elif abs(surge_s) <= CALM_S:
            self.factor **= BACK
        self.threshold_tokens = round(self.solved_tokens * self.factor)

    def _resolve(self, local_site: PrefillSite, remote_sites: list[PrefillSite]) -> None:
        local = local_stage(local_site)
        remotes = [stage for site in remote_sites if (stage := remote_stage(site)) is not None]
        if local is None or not remotes:
            self.bandwidth_scarce = True
            return
        limits = mean_work_limits(self._lengths, local, remotes)
        best, best_req_s = limits.best()
        gain = _worthwhile_gain(len(self._lengths))
        if best_req_s > (1 + gain) * limits.at(self.solved_tokens):
            self.solved_tokens = best
            self.threshold_tokens = round(best * self.factor)
            self._why = f"solved at {local_site.now_s:.0f} s from {len(self._lengths)} requests for {best_req_s:.2f} req/s"
        unbounded = [stage._replace(egress_bytes_per_s=inf) for stage in remotes]
        abundant, abundant_req_s = mean_work_limits(self._lengths, local, unbounded).best()
        binds = _binds(self._lengths, best, remotes) and abundant_req_s > (1 + gain) * best_req_s
        self._abundant_tokens = abundant if binds else None
        self.bandwidth_scarce = binds


def _wait_s(site: PrefillSite) -> float | None:
    """Wait behind a remote site's queue, or its link where that owes more; None while nothing is known of the link."""
    if site.link is None or not site.link.samples or site.link.goodput_bytes_per_s <= 0:
        return None
    return max(site.own_wait_s, site.backlog.kv_bytes / site.link.goodput_bytes_per_s - site.own_wait_s)


def _binds(lengths: deque[int], threshold_tokens: int, remotes: list[PrefillStage]) -> bool:
    """True if the link of a remote site is full before its workers are, for the lengths above t."""
    above = [length for length in lengths if length > threshold_tokens]
    mean_tokens = sum(above) / len(above) if above else max(lengths)
    return any(stage.req_s(mean_tokens) < stage.workers / stage.prefill_s(mean_tokens) for stage in remotes)
