"""What the scheduler knows of the world: workers by their heartbeats, links by their estimates, sites by what it placed there."""

import heapq
from collections import Counter
from dataclasses import dataclass, field
from math import inf

from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import Heartbeat, LinkEstimate
from prfaas_scheduler.backlog import Backlog
from prfaas_scheduler.block_directory import MAX_BLOCKS, BlockDirectory, Level
from prfaas_scheduler.breaker import Breaker
from prfaas_scheduler.candidates import Holder, PrefillSite, Route
from prfaas_scheduler.pools import DecodePool, PrefillPool, Worker

LINK_TIMEOUT_S = 5.0
"""An estimate is put again every second; one that is older than this says nothing about the link now."""
HOLDERS = 16
"""Of the workers that have equally much of a prompt, so many are looked at: the walk over all would take longer than it saves."""
DECODE_SLACK = 1 / 8
"""Of its slots, so much fuller than the least loaded decode worker may be one that has all of the prompt; one that has a part, so
much less. A system prompt that all share is to gather nobody."""


@dataclass(frozen=True, slots=True)
class PlacedPrefill:
    """Enough to place the same prompt again elsewhere."""

    site: str
    model: str
    fingerprint: str
    tokens: int
    until_s: float
    deferred: bool = False


@dataclass(slots=True)
class Site:
    """What is remembered of a site whoever is alive there."""

    backlog: Backlog = field(default_factory=Backlog)
    breaker: Breaker = field(default_factory=Breaker)


class Fleet:
    """Time moves by `advance` and never back; what is asked afterwards is answered as of then."""

    def __init__(self, site: str, max_blocks: int = MAX_BLOCKS) -> None:
        self.site = site
        """The pd site whose scheduler this is."""
        self.directory = BlockDirectory(max_blocks)
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
        bit = self.directory.join(beat.key)
        self.workers[beat.key] = self._heard[beat.key] = worker = Worker(beat, self._now_s, bit)
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
        self.directory.leave(key)

    def measure(self, estimate: LinkEstimate) -> None:
        if self._link_from(estimate.source) is None:
            self.remembered(estimate.source).breaker.link_is_back(self._now_s)
        self.links[estimate.key] = (estimate, self._now_s)

    def lose_link(self, key: str) -> None:
        """Its probe is silent, or gets no answer."""
        self.links.pop(key, None)

    def serves(self, model: str) -> bool:
        """Whether any worker, alive or not, has announced the model."""
        return any(worker.beat.model == model for worker in self.workers.values())

    def decoders(self, model: str) -> DecodePool | None:
        """None while there is no live one."""
        return self._decoders.get(model)

    def decoder(self, pool: DecodePool, found: list[Level], block_tokens: int, prompt_tokens: int) -> tuple[Worker, int]:
        """Of a pool: the least loaded worker, or one that is not much more loaded and has more of the prompt; and how many of its
        tokens that worker has."""
        least = pool.least_loaded()
        for level in found:
            if level.workers & least.bit:
                return least, level.blocks * block_tokens
            for key in self.directory.keys(level.workers & pool.bits, HOLDERS):
                worker = self.workers[key]
                slack = worker.beat.slots * DECODE_SLACK * level.blocks * block_tokens / prompt_tokens
                if worker.load < worker.beat.slots and worker.rank[0] <= least.rank[0] + slack:
                    return worker, level.blocks * block_tokens
        return least, 0

    def prefill_sites(
        self, model: str, fingerprint: str, found: list[Level] | None = None, block_tokens: int = 0, decode_tokens: int = 0
    ) -> dict[str, PrefillSite]:
        """Sites with live prefill workers whose KV a decode worker with `fingerprint` can install. `found`: who has how many
        blocks of the prompt; `decode_tokens`: what its decode worker has of it."""
        sites = {}
        for site, pool in self._prefillers.get((model, fingerprint), {}).items():
            backlog = self.remembered(site).backlog
            common_tokens, holder = self._cached(pool, backlog, found, block_tokens) if found else (0, None)
            sites[site] = PrefillSite(
                site,
                len(pool),
                pool.prefill_points,
                pool.kv_points,
                pool.queue_s,
                backlog,
                self._link_from(site),
                self._now_s,
                holder,
                common_tokens,
                decode_tokens,
            )
        return sites

    def _cached(self, pool: PrefillPool, backlog: Backlog, found: list[Level], block_tokens: int) -> tuple[int, Holder | None]:
        """What all workers of a site have of a prompt, and the one of those with the most that is free first."""
        bits, seen = pool.bits, 0
        holder: Holder | None = None
        for level in found:
            here = level.workers & bits
            if not here:
                continue
            seen |= here
            if seen == bits:
                return level.blocks * block_tokens, holder
            if holder is None:
                names = [self.workers[key].beat.worker for key in self.directory.keys(here, HOLDERS)]
                waits_s = [backlog.worker_wait_s(name, len(pool), self._now_s) for name in names]
                wait_s = min(waits_s)
                holder = Holder(names[waits_s.index(wait_s)], level.blocks * block_tokens, wait_s)
        return 0, holder

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
        known = self.links.get(f"{source}.{self.site}") if source != self.site else None  # no link is within a site
        return known[0] if known and self._now_s - known[1] <= LINK_TIMEOUT_S else None

    # ---- placements

    def place(self, request_id: str, site: PrefillSite, prefill: PlacedPrefill, route: Route) -> None:
        ship_bytes = site.ship_bytes(prefill.tokens)
        work_s, deferred = route.work_s or 0.0, prefill.deferred
        site.backlog.add(request_id, work_s, ship_bytes, site.workers, self._now_s, route.worker, deferred=deferred)
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
        self.directory.validate()
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
