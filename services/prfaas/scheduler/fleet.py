"""What the scheduler knows of the world: workers by their heartbeats, links by their estimates, sites by what it placed there."""

import heapq
from collections import Counter
from dataclasses import dataclass, field
from math import inf

from prfaas.capacity.observed import interpolated
from prfaas.contracts.to_scheduler import Heartbeat, LinkEstimate, Role
from prfaas.scheduler.backlog import Backlog
from prfaas.scheduler.breaker import Breaker
from prfaas.scheduler.pools import DecodePool, Points, PrefillPool, Worker

LINK_TIMEOUT_S = 15.0
"""An estimate older than this says nothing about the link now."""


@dataclass(slots=True)
class PrefillSite:
    """All prefill workers of one site that can serve one decode worker, as one queue: they share the site's work queue."""

    site: str
    workers: int
    prefill_points: Points
    kv_points: Points
    queue_s: float
    """How long jobs have waited there, as its workers announce it where several pd sites share them."""
    backlog: Backlog
    link: LinkEstimate | None
    """From that site to the decode site; None within a site, or while nothing is known."""
    now_s: float

    @property
    def own_wait_s(self) -> float:
        """Behind what this scheduler placed there itself."""
        return self.backlog.wait_s(self.workers, self.now_s)

    @property
    def wait_s(self) -> float:
        """Until a worker is free for the next prompt."""
        return max(self.own_wait_s, self.queue_s)

    def work_s(self, tokens: float) -> float | None:
        """T_prefill(l) on one of the workers; None while nothing has been observed."""
        return interpolated(self.prefill_points, tokens)

    def kv_bytes(self, tokens: float) -> float:
        """S_kv(l)."""
        return interpolated(self.kv_points, tokens) or 0.0

    def prefill_s(self, tokens: float) -> float | None:
        """Wait and prefill of the next prompt; None while nothing has been observed."""
        work_s = self.work_s(tokens)
        return None if work_s is None else self.wait_s + work_s


@dataclass(frozen=True, slots=True)
class PlacedPrefill:
    """Enough to place the same prompt again elsewhere."""

    site: str
    model: str
    fingerprint: str
    tokens: int
    until_s: float


@dataclass(slots=True)
class Site:
    """What is remembered of a site whoever is alive there."""

    backlog: Backlog = field(default_factory=Backlog)
    breaker: Breaker = field(default_factory=Breaker)


class Fleet:
    """Time moves by `advance` and never back; what is asked afterwards is answered as of then."""

    def __init__(self, site: str) -> None:
        self.site = site
        """The pd site whose scheduler this is."""
        self.workers: dict[str, Worker] = {}
        """All that are known, the silent and draining ones too."""
        self.links: dict[str, tuple[LinkEstimate, float]] = {}
        self.sites: dict[str, Site] = {}
        self.placed: dict[str, PlacedPrefill] = {}
        """By request: what a backlog holds."""
        self.alive: Counter[tuple[str, Role]] = Counter()
        """Live workers by site and role; 0 where there only were some."""
        self._now_s = -inf
        self._heard: dict[str, Worker] = {}
        """Those that are not silent, the one that was heard longest ago first."""
        self._decoders: dict[str, DecodePool] = {}
        """Live ones by model."""
        self._prefillers: dict[tuple[str, str], dict[str, PrefillPool]] = {}
        """Live ones by model and fingerprint, then by site."""
        self._expiries: list[tuple[float, str]] = []
        """Heap: when a placement is over, whether somebody says so or not."""

    def advance(self, now_s: float) -> None:
        """Notices silent workers, and placements that nobody reported: after its deadline nobody works on a request any more."""
        assert now_s >= self._now_s, "time does not go back"
        self._now_s = now_s
        while self._heard:
            key, worker = next(iter(self._heard.items()))
            if not worker.silent(now_s):
                break
            self._leave(key)
        while self._expiries and self._expiries[0][0] <= now_s:
            _, request_id = heapq.heappop(self._expiries)
            self.take_back(request_id)

    # ---- workers and links

    def hear(self, beat: Heartbeat) -> None:
        self._leave(beat.key)
        self.workers[beat.key] = self._heard[beat.key] = worker = Worker(beat, self._now_s)
        self.alive[beat.site, beat.role] += not beat.draining
        if beat.draining:
            return
        if beat.role is Role.DECODE:
            self._decoders.setdefault(beat.model, DecodePool()).put(worker)
        else:
            sites = self._prefillers.setdefault((beat.model, beat.fingerprint), {})
            sites.setdefault(beat.site, PrefillPool()).add(worker)

    def forget(self, key: str) -> None:
        self._leave(key)
        self.workers.pop(key, None)

    def measure(self, estimate: LinkEstimate) -> None:
        self.links[estimate.key] = (estimate, self._now_s)

    def serves(self, model: str) -> bool:
        """Whether any worker, alive or not, has announced the model."""
        return any(worker.beat.model == model for worker in self.workers.values())

    def decoders(self, model: str) -> DecodePool | None:
        """None while there is no live one."""
        return self._decoders.get(model)

    def prefill_sites(self, model: str, fingerprint: str) -> dict[str, PrefillSite]:
        """Sites with live prefill workers whose KV a decode worker with `fingerprint` can install."""
        return {
            site: PrefillSite(
                site,
                len(pool),
                pool.prefill_points,
                pool.kv_points,
                pool.queue_s,
                self.remembered(site).backlog,
                self._link_from(site),
                self._now_s,
            )
            for site, pool in self._prefillers.get((model, fingerprint), {}).items()
        }

    def remembered(self, site: str) -> Site:
        found = self.sites.get(site)
        if found is None:
            found = self.sites[site] = Site()
        return found

    def _leave(self, key: str) -> None:
        """Silent, forgotten, or about to be put in again by its next beat. Of one that is not there: nothing."""
        worker = self._heard.pop(key, None)
        if worker is None or worker.beat.draining:
            return
        beat = worker.beat
        self.alive[beat.site, beat.role] -= 1
        if beat.role is Role.DECODE:
            decoders = self._decoders[beat.model]
            decoders.drop(key)
            if not decoders:
                del self._decoders[beat.model]
            return
        sites = self._prefillers[beat.model, beat.fingerprint]
        sites[beat.site].drop(key)
        if not sites[beat.site]:
            del sites[beat.site]
        if not sites:
            del self._prefillers[beat.model, beat.fingerprint]

    def _link_from(self, source: str) -> LinkEstimate | None:
        known = self.links.get(f"{source}.{self.site}")
        return known[0] if known and self._now_s - known[1] <= LINK_TIMEOUT_S else None

    # ---- placements

    def place(self, request_id: str, site: PrefillSite, prefill: PlacedPrefill) -> None:
        site.backlog.add(request_id, site.work_s(prefill.tokens) or 0.0, site.kv_bytes(prefill.tokens), site.workers, self._now_s)
        self.placed[request_id] = prefill
        heapq.heappush(self._expiries, (prefill.until_s, request_id))

    def take_back(self, request_id: str) -> PlacedPrefill | None:
        """The request's prefill is over, one way or another. None of an unknown one."""
        prefill = self.placed.pop(request_id, None)
        if prefill is not None:
            self.sites[prefill.site].backlog.remove(request_id, self.alive[prefill.site, Role.PREFILL], self._now_s)
        return prefill

    def validate(self) -> None:
        for name, site in self.sites.items():
            site.backlog.validate()
            assert len(site.backlog) == sum(prefill.site == name for prefill in self.placed.values())
        assert len(self.placed) <= len(self._expiries), "a placement that nothing will ever take back"
        self._validate_pools()

    def _validate_pools(self) -> None:
        """The indexes against what they stand for: the workers that are neither silent nor draining, by kind."""
        decoders: dict[str, dict[str, Worker]] = {}
        prefillers: dict[tuple[str, str], dict[str, dict[str, Worker]]] = {}
        alive: Counter[tuple[str, Role]] = Counter()
        for key, worker in self.workers.items():
            beat = worker.beat
            assert key == beat.key and worker.placed_requests >= 0
            assert (key in self._heard) is not worker.silent(self._now_s)
            if beat.draining or worker.silent(self._now_s):
                continue
            alive[beat.site, beat.role] += 1
            if beat.role is Role.DECODE:
                decoders.setdefault(beat.model, {})[key] = worker
            else:
                prefillers.setdefault((beat.model, beat.fingerprint), {}).setdefault(beat.site, {})[key] = worker
        assert self.alive == alive  # Counters are equal when they differ by zeros only
        assert self._decoders.keys() == decoders.keys() and self._prefillers.keys() == prefillers.keys()
        for model, pool in self._decoders.items():
            pool.validate(decoders[model])
        for kind, sites in self._prefillers.items():
            assert sites.keys() == prefillers[kind].keys()
            for name, prefill_pool in sites.items():
                prefill_pool.validate(prefillers[kind][name])
