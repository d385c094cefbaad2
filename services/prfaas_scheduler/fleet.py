"""State of the fleet: workers by their heartbeats, links by their estimates, sites by what was placed there."""

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import NamedTuple

from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import Heartbeat, LinkEstimate
from prfaas_scheduler.backlog import Backlog
from prfaas_scheduler.block_directory import MAX_BLOCKS, BlockDirectory, Level
from prfaas_scheduler.breaker import Breaker, BreakerState
from prfaas_scheduler.candidates import Candidate, Holder, PrefillSite, Source
from prfaas_scheduler.decode_load import batch_limit
from prfaas_scheduler.placed_prefill import PlacedPrefill
from prfaas_scheduler.pools import DecodePool, PrefillPool, Worker
from prfaas_scheduler.prompt import Prompt
from prfaas_scheduler.pull_sources import NO_PULLS, PullOptions, best_of, far_source, near_source
from prfaas_scheduler.queue.announced import QueueState, SeenQueue

LINK_TIMEOUT_S = 5.0
"""Age beyond which an estimate says nothing about the link any more; estimates are put again every second."""
HOLDERS = 16
"""Workers examined when several cache the same prefix length; looking at all would cost more than it saves."""
DECODE_SLACK = 1 / 8
"""Extra load, as a share of its batch limit, tolerated to reach a decode worker that caches the whole prompt; scaled down by the
cached share, so that a system prompt that all requests share gathers them nowhere."""


MAX_SITES = 256
"""Sites that are remembered at once. A name costs its sender nothing, a place here costs memory and a metric's series."""


@dataclass(slots=True)
class SiteState:
    """State of a site that outlives its workers."""

    backlog: Backlog = field(default_factory=Backlog)
    breaker: Breaker = field(default_factory=Breaker)
    placed_tokens: int = 0
    """Tokens of all prompts in the backlog."""
    queue: SeenQueue | None = None
    """The site's queue as it was announced last; None where it is not announced."""


class Decoder(NamedTuple):
    """A decode worker chosen for a prompt."""

    worker: Worker
    cached_tokens: int
    """Prefix tokens of the prompt cached there."""


class Fleet:
    """All state of one pd site's scheduler. Time moves by `advance` and never back; all answers are as of then."""

    def __init__(
        self, site: str, max_blocks: int = MAX_BLOCKS, tpot_objective_s: float = 0.0, pulls: PullOptions = NO_PULLS
    ) -> None:
        self.pulls = pulls
        self.site = site
        """The pd site whose scheduler this is."""
        self.tpot_objective_s = tpot_objective_s
        """Time per output token that answers should have; 0: none is set."""
        self.directory = BlockDirectory(max_blocks)
        self.workers: dict[str, Worker] = {}
        """Known workers by key, the silent and draining ones too."""
        self.links: dict[str, tuple[LinkEstimate, float]] = {}
        """(estimate, when it came) by link."""
        self.sites: dict[str, SiteState] = {}
        self.placed: dict[str, PlacedPrefill] = {}
        """Contents of all backlogs by request."""
        self.alive: Counter[tuple[str, Role]] = Counter()
        """Count of live workers by site and role; 0 where there were some."""
        self._now_s = -inf
        self._beating: dict[str, Worker] = {}
        """Workers that are not silent, the one with the oldest heartbeat first."""
        self._decoders: dict[str, DecodePool] = {}
        """Live decode workers by model."""
        self._prefillers: dict[tuple[str, str], dict[str, PrefillPool]] = {}
        """Live prefill workers by model and fingerprint, then by site."""
        self._expiries: list[tuple[float, str]] = []
        """Heap of (when a placement expires, request)."""

    def advance(self, now_s: float) -> None:
        """Drops silent workers, and placements whose end was not reported: after its deadline no worker has a request any
        more."""
        assert now_s >= self._now_s, "time does not go back"
        self._now_s = now_s
        while self._beating:
            key, worker = next(iter(self._beating.items()))
            if not worker.is_silent(now_s):
                break
            self._unlist(key)
        while self._expiries and self._expiries[0][0] <= now_s:
            self._forget_placement(heapq.heappop(self._expiries)[1])

    # ---- workers and links

    def update_worker(self, beat: Heartbeat) -> bool:
        """Returns whether the worker is taken in: not one of a site that is too many."""
        if not self._admit(beat.site):
            return False
        key = beat.key
        known = self.workers.get(key)
        if known is not None and beat.role is Role.PREFILL and known.beat == beat and key in self._beating:
            # It says what it said before: it is only to be counted as alive.
            known.received_at = self._now_s
            self._beating[key] = self._beating.pop(key)
            return True
        if known is not None and known.beat.incarnation != beat.incarnation:
            self._drop_requests_of(key)
        self._unlist(key)
        bit = self.directory.join(key, beat.incarnation)
        self.workers[key] = self._beating[key] = worker = Worker(beat, self._now_s, bit, batch_limit(beat, self.tpot_objective_s))
        self.alive[beat.site, beat.role] += not beat.draining
        if beat.draining:
            return True
        if beat.role is Role.DECODE:
            self._decoders.setdefault(beat.model, DecodePool()).put(worker)
        else:
            sites = self._prefillers.setdefault((beat.model, beat.fingerprint), {})
            sites.setdefault(beat.site, PrefillPool()).add(worker)
        return True

    def remove_worker(self, key: str) -> None:
        self._drop_requests_of(key)
        self._unlist(key)
        self.workers.pop(key, None)
        self.directory.leave(key)

    def update_link(self, estimate: LinkEstimate) -> None:
        if not self._admit(estimate.source):
            return
        if self._link_from(estimate.source) is None:
            self.site_state(estimate.source).breaker.link_is_back(self._now_s)
        self.links[estimate.key] = (estimate, self._now_s)

    def remove_link(self, key: str) -> None:
        self.links.pop(key, None)

    def update_queue(self, state: QueueState) -> None:
        if not self._admit(state.site):
            return
        known = self.sites[state.site]
        if known.queue is None:
            known.queue = SeenQueue(state)
        else:
            known.queue.update(state)

    def serves(self, model: str) -> bool:
        """True if any worker, alive or not, has announced the model."""
        return any(worker.beat.model == model for worker in self.workers.values())

    def decode_pool(self, model: str) -> DecodePool | None:
        """The model's live decode workers; None while there is none."""
        return self._decoders.get(model)

    def choose_decoder(self, pool: DecodePool, prompt: Prompt) -> Decoder:
        """The pool's least loaded worker, or one that is not much more loaded and caches more of the prompt. `pool` is not
        empty."""
        least = pool.least_loaded()
        for level in prompt.levels:
            cached_tokens = prompt.cached_tokens(level)
            if level.workers & least.bit:
                return Decoder(least, cached_tokens)
            for key in self.directory.keys(level.workers & pool.bits, HOLDERS):
                worker = self.workers[key]
                slack = DECODE_SLACK * cached_tokens / prompt.tokens
                if worker.load < worker.batch_limit and worker.rank[0] <= least.rank[0] + slack:
                    return Decoder(worker, cached_tokens)
        return Decoder(least, 0)

    def prefill_sites(self, model: str, fingerprint: str) -> dict[str, PrefillSite]:
        """Sites, by name, with live prefill workers whose KV a decode worker with `fingerprint` can install."""
        return {name: self._prefill_site(name, pool) for name, pool in self._prefillers.get((model, fingerprint), {}).items()}

    def candidates(self, prompt: Prompt, model: str, fingerprint: str) -> dict[str, Candidate]:
        """The same sites as places for one prompt."""
        found = {}
        longest: dict[str, Holder] = {}
        for name, pool in self._prefillers.get((model, fingerprint), {}).items():
            site = self._prefill_site(name, pool)
            common_tokens, holder = 0, None
            if prompt.levels:
                common_tokens, longest_here = self._cached(pool, site, prompt)
                if longest_here is not None:
                    longest[name] = longest_here
                    holder = longest_here if longest_here.cached_tokens > common_tokens else None
            found[name] = Candidate(
                site=site,
                prompt=prompt,
                common_tokens=common_tokens,
                holder=holder,
                near=None if holder is None else self._near(site, pool, holder, common_tokens),
            )
        own = found.get(self.site)
        if own is not None and (far := best_of(self._far_sources(found, longest, own))) is not None:
            found[self.site] = replace(own, far=far)
        return found

    def _near(self, site: PrefillSite, pool: PrefillPool, holder: Holder, common_tokens: int) -> Source | None:
        may_pull = len(pool) > 1 and self._sends(site.name, holder)
        return near_source(site, holder, common_tokens, pool.pull_bytes_per_s) if may_pull else None

    def _far_sources(self, found: Mapping[str, Candidate], longest: Mapping[str, Holder], own: Candidate) -> Iterator[Source]:
        for name in self.pulls.sites:
            holder, remote = longest.get(name), found.get(name)
            if holder is None or remote is None or not self._sends(name, holder):
                continue
            trusted = self.site_state(name).breaker.state(self._now_s) is BreakerState.CLOSED
            if trusted and (source := far_source(remote.site, holder, own)) is not None:
                yield source

    def _sends(self, site: str, holder: Holder) -> bool:
        return self.pulls.enabled and self.workers[f"{site}.{Role.PREFILL}.{holder.worker}"].beat.pulls

    def _prefill_site(self, name: str, pool: PrefillPool) -> PrefillSite:
        state = self.site_state(name)
        if state.queue is not None and state.queue.is_silent(self._now_s):
            state.queue = None
        return PrefillSite(
            name=name,
            workers=len(pool),
            prefill_points=pool.prefill_points,
            kv_points=pool.kv_points,
            queue_s=pool.queue_s,
            backlog=state.backlog,
            link=self._link_from(name),
            now_s=self._now_s,
            queue=state.queue,
            placed_tokens=state.placed_tokens,
        )

    def _cached(self, pool: PrefillPool, site: PrefillSite, prompt: Prompt) -> tuple[int, Holder | None]:
        """(prefix tokens that all workers of a site cache, the worker that caches most)."""
        bits, seen = pool.bits, 0
        holder: Holder | None = None
        for level in prompt.levels:
            here = level.workers & bits
            if not here:
                continue
            seen |= here
            if holder is None:
                workers = [self.workers[key] for key in self.directory.keys(here, HOLDERS)]
                holders = [self._holder(worker, level, pool, site, prompt) for worker in workers]
                holder = min(holders, key=lambda each: each.wait_s + each.read_s)
            if seen == bits:
                return prompt.cached_tokens(level), holder
        return 0, holder

    def _holder(self, worker: Worker, level: Level, pool: PrefillPool, site: PrefillSite, prompt: Prompt) -> Holder:
        tokens, beat = prompt.cached_tokens(level), worker.beat
        wait_s = site.backlog.worker_wait_s(beat.worker, len(pool), self._now_s)
        reads = level.on_disk & worker.bit and beat.disk_bytes_per_s
        return Holder(beat.worker, tokens, wait_s, site.kv_bytes(tokens) / beat.disk_bytes_per_s if reads else 0.0)

    def _admit(self, site: str) -> bool:
        """Returns whether the site is one of MAX_SITES: sites that nothing is known of any more make room."""
        if site in self.sites:
            return True
        if len(self.sites) >= MAX_SITES:
            for name in [name for name in self.sites if self._idle(name)]:
                del self.sites[name]
                for role in Role:
                    self.alive.pop((name, role), None)
        if len(self.sites) >= MAX_SITES:
            return False
        self.sites[site] = SiteState()
        return True

    def _idle(self, site: str) -> bool:
        known = self.sites[site]
        alive = any(self.alive[site, role] for role in Role)
        return not alive and not len(known.backlog) and self._link_from(site) is None and known.breaker.idle

    def site_state(self, site: str) -> SiteState:
        found = self.sites.get(site)
        if found is None:
            found = self.sites[site] = SiteState()
        return found

    def _unlist(self, key: str) -> None:
        """Takes a worker out of all indexes; an unknown key changes nothing."""
        worker = self._beating.pop(key, None)
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

    def add_placement(self, request_id: str, candidate: Candidate, prefill: PlacedPrefill) -> None:
        """Counts a prefill on the candidate's route. `prefill.site` is the candidate's."""
        site, route = candidate.site, candidate.route
        site.backlog.add(request_id, route.work_s or 0.0, candidate.ship_bytes, site.workers, self._now_s, route.worker)
        if site.queue is not None:
            site.queue.place(route.work_s or 0.0, self._now_s)
        self.placed[request_id] = prefill
        self.sites[prefill.site].placed_tokens += prefill.tokens
        heapq.heappush(self._expiries, (prefill.expires_at, request_id))

    def remove_placement(self, request_id: str) -> PlacedPrefill | None:
        """The request's prefill, which is over; None for an unknown request."""
        prefill = self.placed.pop(request_id, None)
        if prefill is not None:
            self.sites[prefill.site].placed_tokens -= prefill.tokens
            self.sites[prefill.site].backlog.remove(request_id, self.alive[prefill.site, Role.PREFILL], self._now_s)
        return prefill

    def withdraw(self, request_id: str) -> None:
        """Takes back a request's placement, wherever it was: its next one may be elsewhere, and it tries no link until then."""
        self.remove_placement(request_id)
        for site in self.sites.values():
            site.breaker.abandoned(request_id)

    def _drop_requests_of(self, key: str) -> None:
        """Takes the prefills out of the backlogs whose decode worker is gone: what they computed would be for no request."""
        for request_id in [request_id for request_id, prefill in self.placed.items() if prefill.decoder == key]:
            self._forget_placement(request_id)

    def _forget_placement(self, request_id: str) -> None:
        """Removes a prefill whose end was not reported. It says nothing about the link, which another request may try."""
        if prefill := self.remove_placement(request_id):
            self.sites[prefill.site].breaker.abandoned(request_id)

    def count_request(self, decoder: Worker) -> None:
        """Counts a request placed on a live decode worker until its next heartbeat shows it."""
        decoder.placed_requests += 1
        self._decoders[decoder.beat.model].put(decoder)

    def validate(self) -> None:
        assert len(self.sites) <= MAX_SITES
        for name, site in self.sites.items():
            site.backlog.validate()
            placed = [prefill for prefill in self.placed.values() if prefill.site == name]
            assert len(site.backlog) == len(placed)
            assert site.placed_tokens == sum(prefill.tokens for prefill in placed)
        self.directory.validate()
        assert len(self.placed) <= len(self._expiries), "a placement that never expires"
        self._validate_pools()

    def _validate_pools(self) -> None:
        """Compares the indexes with a walk over the workers that are neither silent nor draining."""
        decoders: dict[str, dict[str, Worker]] = {}
        prefillers: dict[tuple[str, str], dict[str, dict[str, Worker]]] = {}
        alive: Counter[tuple[str, Role]] = Counter()
        for key, worker in self.workers.items():
            beat = worker.beat
            assert key == beat.key and worker.placed_requests >= 0
            assert (key in self._beating) is not worker.is_silent(self._now_s)
            if beat.draining or worker.is_silent(self._now_s):
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
