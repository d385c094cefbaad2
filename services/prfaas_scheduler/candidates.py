"""Sites as places to prefill: their queue, speed and link, and how one of them would prefill one prompt."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from prfaas.capacity.observed import interpolated
from prfaas.contracts.to_scheduler import LinkEstimate
from prfaas_scheduler.backlog import Backlog
from prfaas_scheduler.pools import Points
from prfaas_scheduler.prompt import Prompt
from prfaas_scheduler.queue.announced import SeenQueue

PULL_MARGIN = 1.25
"""Factor by which a pull has to be sooner than computing the same tokens: predictions are no promises."""
FORESEEN = 2.0
"""Prompts of up to this many times the longest observed one have a prediction that a request may be refused for."""


@dataclass(slots=True, kw_only=True)
class PrefillSite:
    """All prefill workers of one site that can serve one decode worker, as one queue: they share the site's work queue."""

    name: str
    workers: int
    prefill_points: Points
    """Observed (tokens, seconds) in rising order; empty while nothing has been observed."""
    kv_points: Points
    """(tokens, KV bytes) in rising order."""
    queue_s: float
    """Wait there, as its workers announce it where several pd sites share them."""
    backlog: Backlog
    """Placements of this scheduler there."""
    link: LinkEstimate | None
    """Link from that site to the decode site; None within a site, or while nothing is known."""
    now_s: float
    queue: SeenQueue | None = None
    """The site's queue, as it announces it; None where it does not."""
    placed_tokens: int = 0
    """Tokens of all prompts that this scheduler has placed there and that are not over."""

    @property
    def own_wait_s(self) -> float:
        """Wait in the site's queue, as it announces it; else behind what this scheduler placed there itself."""
        if self.queue is not None:
            return self.queue.wait_s(self.workers, self.now_s)
        return self.backlog.wait_s(self.workers, self.now_s)

    @property
    def wait_s(self) -> float:
        """Wait until some worker is free for the next prompt."""
        return max(self.own_wait_s, self.queue_s)

    @property
    def foresees_wait(self) -> bool:
        """True when prompts as long as the mean one placed there have been observed. Predictions grow in proportion above the
        longest one observed: a prompt of 80,000 tokens is predicted ten times too long after prompts of 100."""
        if not self.prefill_points:
            return False
        longest_tokens = self.prefill_points[-1][0]
        return self.placed_tokens <= FORESEEN * longest_tokens * len(self.backlog)

    def work_s(self, tokens: float, cached_tokens: float = 0.0) -> float | None:
        """T_prefill(l) on one of the workers; None while nothing has been observed.

        After a cached prefix, T(l) - T(l_cached), because attention looks back at all of it; and no less than T of the rest
        alone, because the difference has lost the constant part of the curve.
        """
        whole_s = interpolated(self.prefill_points, tokens)
        if whole_s is None or not cached_tokens:
            return whole_s
        cached_s = interpolated(self.prefill_points, cached_tokens) or 0.0
        rest_s = interpolated(self.prefill_points, tokens - cached_tokens) or 0.0
        return max(whole_s - cached_s, rest_s)

    def kv_bytes(self, tokens: float) -> float:
        """S_kv(l)."""
        return interpolated(self.kv_points, tokens) or 0.0


class Holder(NamedTuple):
    """The worker of a site that caches most of a prompt; of several with as much, the one that is free first."""

    worker: str
    cached_tokens: int
    wait_s: float
    """Wait until it can begin: behind jobs bound to it, else behind the job that it runs."""
    read_s: float = 0.0
    """Time to read what it has on disk; 0 in memory, and while its speed is not known."""


class Source(NamedTuple):
    """A worker from which others may pull a prefix."""

    site: str
    worker: str
    tokens: int
    pull_s: float
    """Predicted time until it is there."""


class Route(NamedTuple):
    """The way in which a site would prefill the prompt."""

    worker: str | None
    """None: any worker of the site."""
    cached_tokens: int
    wait_s: float
    work_s: float | None
    """A pull included; None while nothing has been observed."""
    pull: Source | None = None
    """Source that the worker pulls the cached tokens from; None: it has them."""

    @property
    def prefill_s(self) -> float | None:
        """Wait and prefill; None while nothing has been observed."""
        return None if self.work_s is None else self.wait_s + self.work_s


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """One site as a place for one prompt."""

    site: PrefillSite
    prompt: Prompt
    common_tokens: int = 0
    """Prefix tokens cached at every worker of the site."""
    holder: Holder | None = None
    """None if no worker caches more than every worker does."""
    near: Source | None = None
    """Worker of the site itself from which the others may pull more than they cache."""
    far: Source | None = None
    """Worker of another site, likewise."""

    @property
    def name(self) -> str:
        return self.site.name

    @cached_property
    def route(self) -> Route:
        """The one that is done soonest: to the holder, to any worker, or to any worker that pulls the prefix."""
        routes = [self._unbound(self.site.wait_s)]
        if self.holder is not None:
            worker, cached_tokens, wait_s, read_s = self.holder
            work_s = self.site.work_s(self.prompt.prefill_tokens, cached_tokens)
            routes.insert(0, Route(worker, cached_tokens, wait_s, None if work_s is None else work_s + read_s))
        routes += [route for source in (self.near, self.far) if (route := self._pulled(source)) is not None]
        return min(routes, key=lambda route: route.wait_s + (route.work_s or 0.0))

    def without_far(self) -> "Candidate":
        """Returns the same place where nothing is pulled from other sites."""
        return self if self.far is None else replace(self, far=None)

    @property
    def uncached_tokens(self) -> int:
        """Tokens that the route computes."""
        return self.prompt.prefill_tokens - self.route.cached_tokens

    @property
    def saved_s(self) -> float:
        """Time that the site's caches save, waits included."""
        if not self.route.cached_tokens:
            return 0.0
        whole_s = self.site.work_s(self.prompt.prefill_tokens) or 0.0
        return (self.site.wait_s + whole_s) - (self.route.wait_s + (self.route.work_s or 0.0))

    @property
    def ship_bytes(self) -> float:
        """S_kv(l) less what the decode worker has cached, which saves full layers: the part that keeps growing with the
        tokens."""
        site, decode_tokens = self.site, self.prompt.decode_tokens
        whole_bytes = site.kv_bytes(self.prompt.prefill_tokens)
        if not decode_tokens or len(site.kv_points) < 2:
            return whole_bytes
        (low_tokens, low_bytes), (high_tokens, high_bytes) = site.kv_points[-2:]
        return max(0.0, whole_bytes - decode_tokens * (high_bytes - low_bytes) / (high_tokens - low_tokens))

    def _unbound(self, wait_s: float) -> Route:
        return Route(None, self.common_tokens, wait_s, self.site.work_s(self.prompt.prefill_tokens, self.common_tokens))

    def _pulled(self, source: Source | None) -> Route | None:
        """Returns the route by which any worker pulls the prefix, if that is clearly sooner than computing it."""
        if source is None or source.tokens <= self.common_tokens:
            return None
        rest_s = self.site.work_s(self.prompt.prefill_tokens, source.tokens)
        whole_s = self.site.work_s(self.prompt.prefill_tokens, self.common_tokens)
        if rest_s is None or whole_s is None or PULL_MARGIN * source.pull_s + rest_s >= whole_s:
            return None
        return Route(None, source.tokens, self.site.wait_s, source.pull_s + rest_s, source)
