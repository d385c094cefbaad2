"""A site as a place to prefill one prompt: its queue, its speed, its link, and what its workers have of the prompt already."""

from dataclasses import dataclass
from typing import NamedTuple

from prfaas.capacity.observed import interpolated
from prfaas.contracts.to_scheduler import LinkEstimate
from prfaas_scheduler.backlog import Backlog
from prfaas_scheduler.pools import Points


class Holder(NamedTuple):
    """The worker of a site that has the most of a prompt; of several that have as much, the one that is free first."""

    worker: str
    cached_tokens: int
    wait_s: float
    """Until it can begin: behind jobs that wait for this very worker, else behind what it has in hand."""


class Route(NamedTuple):
    """How a site would prefill the prompt."""

    worker: str | None
    """None: whoever of the site is free first."""
    cached_tokens: int
    wait_s: float
    work_s: float | None
    """None while nothing has been observed."""


@dataclass(slots=True)
class PrefillSite:
    """All prefill workers of one site that can serve one decode worker, as one queue: they share the site's work queue."""

    site: str
    workers: int
    prefill_points: Points
    kv_points: Points
    queue_s: float
    """The wait there, as its workers announce it where several pd sites share them."""
    backlog: Backlog
    link: LinkEstimate | None
    """From that site to the decode site; None within a site, or while nothing is known."""
    now_s: float
    holder: Holder | None = None
    """None: no worker has more of the prompt than all have."""
    common_tokens: int = 0
    """Of the prompt's prefix, cached at every worker."""
    decode_tokens: int = 0
    """Of the prompt's prefix, cached at the decode worker: full layers are shipped from there on."""

    @property
    def own_wait_s(self) -> float:
        """Behind what this scheduler placed there itself."""
        return self.backlog.wait_s(self.workers, self.now_s)

    @property
    def wait_s(self) -> float:
        """Until some worker is free for the next prompt."""
        return max(self.own_wait_s, self.queue_s)

    @property
    def deferred_wait_s(self) -> float:
        """The same for a prompt that is deferred, if no other comes."""
        return max(self.backlog.deferred_wait_s(self.workers, self.now_s), self.queue_s)

    def work_s(self, tokens: float, cached_tokens: float = 0.0) -> float | None:
        """T_prefill(l) on one of the workers; None while nothing has been observed.

        After a cached prefix, T(l) - T(l_cached), for attention looks back at all of it; and no less than T of the rest alone:
        the difference has lost the constant part of the curve."""
        whole_s = interpolated(self.prefill_points, tokens)
        if whole_s is None or not cached_tokens:
            return whole_s
        cached_s = interpolated(self.prefill_points, cached_tokens) or 0.0
        rest_s = interpolated(self.prefill_points, tokens - cached_tokens) or 0.0
        return max(whole_s - cached_s, rest_s)

    def kv_bytes(self, tokens: float) -> float:
        """S_kv(l)."""
        return interpolated(self.kv_points, tokens) or 0.0

    def ship_bytes(self, tokens: float) -> float:
        """S_kv(l) less the cached prefix of the decode worker, in full layers: in the part that keeps growing with the tokens."""
        whole_bytes = self.kv_bytes(tokens)
        if not self.decode_tokens or len(self.kv_points) < 2:
            return whole_bytes
        (low_tokens, low_bytes), (high_tokens, high_bytes) = self.kv_points[-2:]
        return max(0.0, whole_bytes - self.decode_tokens * (high_bytes - low_bytes) / (high_tokens - low_tokens))

    def route(self, tokens: int) -> Route:
        """To the worker that has most of the prompt, if it is done sooner than whoever is free first."""
        anyone = Route(None, self.common_tokens, self.wait_s, self.work_s(tokens, self.common_tokens))
        if self.holder is None:
            return anyone
        worker, cached_tokens, wait_s = self.holder
        bound = Route(worker, cached_tokens, wait_s, self.work_s(tokens, cached_tokens))
        return bound if bound.wait_s + (bound.work_s or 0.0) <= anyone.wait_s + (anyone.work_s or 0.0) else anyone

    def deferred_route(self, tokens: int) -> Route:
        """To whoever has nothing else to do."""
        return Route(None, self.common_tokens, self.deferred_wait_s, self.work_s(tokens, self.common_tokens))

    def uncached_tokens(self, tokens: int) -> int:
        """What would be computed."""
        return tokens - self.route(tokens).cached_tokens

    def saved_s(self, tokens: int) -> float:
        """By the cache, waits included."""
        route = self.route(tokens)
        # Two sums, so that nothing cached saves exactly nothing: sites are compared by it.
        return (self.wait_s + (self.work_s(tokens) or 0.0)) - (route.wait_s + (route.work_s or 0.0))

    def prefill_s(self, tokens: int) -> float | None:
        """Wait and prefill of the next prompt; None while nothing has been observed."""
        route = self.route(tokens)
        return None if route.work_s is None else route.wait_s + route.work_s
