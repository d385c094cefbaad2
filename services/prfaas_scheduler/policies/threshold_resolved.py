"""Policy `threshold` under the paper's short-term control (section 3.4.3): t follows what is observed.

Slow part, every `resolve_every_s`: the best t is solved for the last requests, with what each site has cached of them, the
prefill times and cache sizes that the workers announce, and what the links carry now. It takes the mean of T over the lengths. A
sample's best t is not the traffic's: so the requests are dealt into two halves, and t moves only if the best of each half carries
more than the present t on the other half too. While more comes than any t carries, it moves for a large gain only.

Fast part, every second: where the queue of one side surges over the other's, or what is on the way fills a link, and the other
side has room, t moves by a factor, within bounds. It comes back when both are calm, and when the other side has no room any
more: two sides that are late serve fewer in time than one. Between these limits nothing moves: that is the hysteresis. A link
counts for less where its estimate is unsure or old, or where it resends.

The paper's two routing rules differ in how they count cached prefixes: the pd site's own while bandwidth is scarce, the longest
of all while it is abundant. It is scarce while the links bind (Eq 3), and while nothing is known of them. What stays only because
of links that bind is `local_link_scarce`, not `local_short`.
"""

from collections import deque
from collections.abc import Sequence
from math import inf, sqrt

from prfaas.capacity.mean_work import Limits, mean_work_limits
from prfaas.capacity.threshold import PrefillStage
from prfaas.contracts.terms import Outcome
from prfaas_scheduler.candidates import PrefillSite
from prfaas_scheduler.policies.base import Candidates, Choice
from prfaas_scheduler.policies.threshold import Threshold
from prfaas_scheduler.prefill_stage import local_stage, remote_stage
from prfaas_scheduler.prompt import Prompt

WINDOW_REQUESTS = 2048
MIN_REQUESTS = 64
MIN_GAIN = 0.03
"""Least relative gain for which t moves: moving costs a swing of both queues."""
NOISE = 1.0
"""Least gain beyond that, in units of 1 / sqrt(requests): the spread of a request's work is about its mean."""
OVERLOAD_GAIN = 0.25
"""Least relative gain while more comes than any t carries: queues grow all the same, and a balance makes both sides late."""
RATE_REQUESTS = 128
"""Last requests that the rate of arrivals is taken from."""
CONTROL_EVERY_S = 1.0
SURGE_S = 3.0
"""Difference of the two sides' waits from which t moves."""
CALM_S = 1.0
"""Difference below which it comes back."""
ROOM_S = 1.0
"""Longest wait of the side that is to get more."""
NO_ROOM_S = 2.0
"""Wait of that side from which t comes back."""
STEP = 1.1
MAX_FACTOR = 1.5
"""Bound of the fast part's factor, and of its inverse: further away both stages lose more than a queue costs."""
BACK = 0.8
"""Share of the factor's logarithm that a calm second leaves."""

Request = tuple[int, int]
"""Tokens of a prompt that are not cached (at the pd site, at the best remote site)."""


class ResolvedThreshold(Threshold):
    """Threshold that starts with the configured t, and keeps the last one while something that a solve needs is not known."""

    def __init__(self, threshold_tokens: int, resolve_every_s: float) -> None:
        super().__init__(threshold_tokens)
        self.resolve_every_s = resolve_every_s
        self.solved_tokens = threshold_tokens
        """The slow part's t."""
        self.factor = 1.0
        """The fast part's factor."""
        self._requests: deque[Request] = deque(maxlen=WINDOW_REQUESTS)
        self._arrived_at: deque[float] = deque(maxlen=RATE_REQUESTS)
        self._solve_at = self._control_at = -inf
        self._why = "as configured"
        self._abundant_tokens: int | None = None
        """The best t if links carried anything; None unless the links bind."""

    @property
    def fixed_threshold_tokens(self) -> float | None:
        return None

    def choose(self, prompt: Prompt, candidates: Candidates) -> Choice:
        # Control when it is due.
        local = self._home(candidates)
        local_tokens = prompt.prefill_tokens if local is None else local.uncached_tokens
        remote = candidates.best_remote()
        self._requests.append((local_tokens, local_tokens if remote is None else remote.uncached_tokens))
        if local is not None:
            self._arrived_at.append(local.site.now_s)
        if local is not None and local.site.now_s >= self._solve_at and len(self._requests) >= MIN_REQUESTS:
            self._solve_at = local.site.now_s + self.resolve_every_s
            self._resolve(local.site, [remote.site for remote in candidates.remotes])
        if local is not None and local.site.now_s >= self._control_at:
            self._control_at = local.site.now_s + CONTROL_EVERY_S
            self._control(local.site, [remote.site for remote in candidates.remotes])
        # Decide as a fixed threshold does, and tell apart what stays only because links bind.
        choice = super().choose(prompt, candidates)
        reason = f"{choice.reason}, {self._why}"
        abundant = self._abundant_tokens
        if choice.outcome is Outcome.LOCAL_SHORT and abundant is not None and local_tokens > abundant:
            return Choice(choice.candidate, Outcome.LOCAL_LINK_SCARCE, f"{reason}; if the links were faster, t = {abundant}")
        return choice._replace(reason=reason)

    def _control(self, local: PrefillSite, remotes: list[PrefillSite]) -> None:
        """Moves the factor by the difference of the waits."""
        here_s, there_s = local.own_wait_s, _shortest_wait_s(remotes)
        if there_s == inf:
            there_s = here_s
        surge_s, room_s = there_s - here_s, min(here_s, there_s)
        if abs(surge_s) >= SURGE_S and room_s <= ROOM_S:
            self.factor *= STEP if surge_s > 0 else 1 / STEP
            self.factor = min(max(self.factor, 1 / MAX_FACTOR), MAX_FACTOR)
        elif abs(surge_s) <= CALM_S or room_s >= NO_ROOM_S:
            self.factor **= BACK
        self.threshold_tokens = round(self.solved_tokens * self.factor)

    def _resolve(self, local_site: PrefillSite, remote_sites: list[PrefillSite]) -> None:
        local = local_stage(local_site)
        remotes = [stage for site in remote_sites if (stage := remote_stage(site)) is not None]
        if local is None or not remotes:
            self.bandwidth_scarce = True
            return
        requests = list(self._requests)
        best, best_req_s = _limits(requests, local, remotes).best()
        least = worthwhile_gain(len(requests))
        if self._rate_req_s() > best_req_s:
            least = max(least, OVERLOAD_GAIN)
        if self._gains(least, requests, local, remotes):
            self.solved_tokens = best
            self.threshold_tokens = round(best * self.factor)
            self._why = f"solved at {local_site.now_s:.0f} s from {len(requests)} requests for {best_req_s:.2f} req/s"
        unbounded = [stage._replace(egress_bytes_per_s=inf) for stage in remotes]
        abundant, abundant_req_s = _limits(requests, local, unbounded).best()
        binds = _binds(requests, best, remotes) and abundant_req_s > (1 + worthwhile_gain(len(requests))) * best_req_s
        self._abundant_tokens = abundant if binds else None
        self.bandwidth_scarce = binds

    def _rate_req_s(self) -> float:
        """Rate at which requests came lately; 0 before a second one."""
        span_s = self._arrived_at[-1] - self._arrived_at[0] if self._arrived_at else 0.0
        return (len(self._arrived_at) - 1) / span_s if span_s > 0 else 0.0

    def _gains(self, least: float, requests: list[Request], local: PrefillStage, remotes: list[PrefillStage]) -> bool:
        """Returns whether the best t of each half of the requests gains more than `least` over the present one on the other
        half."""
        one, other = (_limits(requests[first::2], local, remotes) for first in (0, 1))
        return all(
            judge.at(solved.best()[0]) > (1 + least) * judge.at(self.solved_tokens)
            for solved, judge in ((one, other), (other, one))
        )


def worthwhile_gain(requests: int) -> float:
    """Least relative gain for which t moves."""
    return MIN_GAIN + NOISE / sqrt(requests)


def _limits(requests: Sequence[Request], local: PrefillStage, remotes: Sequence[PrefillStage]) -> Limits:
    here, there = zip(*requests, strict=True)
    return mean_work_limits(here, local, remotes, there)


def _shortest_wait_s(remotes: Sequence[PrefillSite]) -> float:
    """Wait at the remote site that is free first; infinite while nothing is known of any link."""
    return min((wait_s for remote in remotes if (wait_s := _wait_s(remote)) is not None), default=inf)


def _wait_s(site: PrefillSite) -> float | None:
    """Wait behind a remote site's queue, or its link where that owes more; None while nothing is known of the link."""
    if site.link is None or not site.link.samples or site.link.goodput_bytes_per_s <= 0:
        return None
    return max(site.own_wait_s, site.backlog.kv_bytes / site.link.goodput_bytes_per_s)


def _binds(requests: Sequence[Request], threshold_tokens: int, remotes: list[PrefillStage]) -> bool:
    """True if the link of a remote site is full before its workers are, for the requests above t."""
    above = [there for here, there in requests if here > threshold_tokens]
    mean_tokens = sum(above) / len(above) if above else max(there for _, there in requests)
    return any(stage.req_s(mean_tokens) < stage.workers / stage.prefill_s(mean_tokens) for stage in remotes)
