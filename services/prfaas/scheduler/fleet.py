"""What the scheduler knows of the world: workers by their heartbeats, links by their estimates, sites by what it placed there."""

import heapq
from collections import Counter
from dataclasses import dataclass, field

from prfaas.capacity.observed import interpolated
from prfaas.contracts.to_scheduler import Heartbeat, LinkEstimate, Role
from prfaas.scheduler.backlog import Backlog
from prfaas.scheduler.breaker import Breaker

HEARTBEAT_TIMEOUT_S = 3.5
"""Three missed beats and some slack: then a worker counts as dead, whatever its bucket still says."""

LINK_TIMEOUT_S = 15.0
"""An estimate older than this says nothing about the link now."""


@dataclass(slots=True)
class Worker:
    beat: Heartbeat
    heard_s: float
    placed_requests: int = 0
    """Decode: placed here since the last beat, which therefore does not show them yet."""

    @property
    def load(self) -> int:
        """Decode requests held or on their way."""
        return self.beat.running + self.beat.waiting + self.placed_requests

    def alive(self, now_s: float) -> bool:
        return not self.beat.draining and now_s - self.heard_s <= HEARTBEAT_TIMEOUT_S


@dataclass(slots=True)
class PrefillSite:
    """All prefill workers of one site that can serve one decode worker, as one queue: they share the site's work queue."""

    site: str
    workers: int
    prefill_points: tuple[tuple[float, float], ...]
    kv_points: tuple[tuple[float, float], ...]
    backlog: Backlog
    link: LinkEstimate | None
    """From that site to the decode site; None within a site, or while nothing is known."""
    now_s: float

    @property
    def wait_s(self) -> float:
        """Until a worker is free for the next prompt."""
        return self.backlog.wait_s(self.workers, self.now_s)

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


@dataclass(slots=True)
class Fleet:
    site: str
    """The pd site whose scheduler this is."""
    workers: dict[str, Worker] = field(default_factory=dict)
    links: dict[str, tuple[LinkEstimate, float]] = field(default_factory=dict)
    sites: dict[str, Site] = field(default_factory=dict)
    placed: dict[str, PlacedPrefill] = field(default_factory=dict)
    """By request: what a backlog holds."""
    _expiries: list[tuple[float, str]] = field(default_factory=list)
    """Heap: when a placement is over, whether somebody says so or not."""

    def hear(self, beat: Heartbeat, now_s: float) -> None:
        self.workers[beat.key] = Worker(beat, now_s)

    def forget(self, key: str) -> None:
        self.workers.pop(key, None)

    def measure(self, estimate: LinkEstimate, now_s: float) -> None:
        self.links[estimate.key] = (estimate, now_s)

    def alive(self, role: Role, model: str, now_s: float) -> list[Worker]:
        return [
            worker
            for worker in self.workers.values()
            if worker.beat.role is role and worker.beat.model == model and worker.alive(now_s)
        ]

    def count(self, now_s: float) -> Counter[tuple[str, Role]]:
        """Known workers by site and role, of which the silent and draining ones count 0."""
        found: Counter[tuple[str, Role]] = Counter()
        for worker in self.workers.values():
            found[worker.beat.site, worker.beat.role] += int(worker.alive(now_s))
        return found

    def serves(self, model: str) -> bool:
        """Whether any worker, alive or not, has announced the model."""
        return any(worker.beat.model == model for worker in self.workers.values())

    def prefill_sites(self, model: str, fingerprint: str, now_s: float) -> dict[str, PrefillSite]:
        """Sites with live prefill workers whose KV a decode worker with `fingerprint` can install."""
        sites: dict[str, PrefillSite] = {}
        for worker in self.alive(Role.PREFILL, model, now_s):
            beat = worker.beat
            if beat.fingerprint != fingerprint:
                continue
            found = sites.get(beat.site)
            if found is None:
                backlog = self.remembered(beat.site).backlog
                link = self._link_from(beat.site, now_s)
                sites[beat.site] = PrefillSite(beat.site, 1, beat.prefill_points, beat.kv_points, backlog, link, now_s)
            else:
                found.workers += 1
                found.prefill_points = found.prefill_points or beat.prefill_points
        return sites

    def remembered(self, site: str) -> Site:
        return self.sites.setdefault(site, Site())

    # ---- placements

    def place(self, request_id: str, site: PrefillSite, prefill: PlacedPrefill) -> None:
        site.backlog.add(request_id, site.work_s(prefill.tokens) or 0.0, site.kv_bytes(prefill.tokens), site.workers, site.now_s)
        self.placed[request_id] = prefill
        heapq.heappush(self._expiries, (prefill.until_s, request_id))

    def take_back(self, request_id: str, now_s: float) -> PlacedPrefill | None:
        """The request's prefill is over, one way or another. None of an unknown one."""
        prefill = self.placed.pop(request_id, None)
        if prefill is not None:
            self.sites[prefill.site].backlog.remove(request_id, self._prefill_workers(prefill.site, now_s), now_s)
        return prefill

    def expire(self, now_s: float) -> None:
        """Takes back what nobody reported: its deadline is over, so nobody works on it any more."""
        while self._expiries and self._expiries[0][0] <= now_s:
            _, request_id = heapq.heappop(self._expiries)
            self.take_back(request_id, now_s)

    def validate(self) -> None:
        for key, worker in self.workers.items():
            assert key == worker.beat.key and worker.placed_requests >= 0
        for name, site in self.sites.items():
            site.backlog.validate()
            assert len(site.backlog) == sum(prefill.site == name for prefill in self.placed.values())
        assert len(self.placed) <= len(self._expiries), "a placement that nothing will ever take back"

    def _prefill_workers(self, site: str, now_s: float) -> int:
        here = [worker for worker in self.workers.values() if worker.beat.site == site and worker.beat.role is Role.PREFILL]
        return sum(worker.alive(now_s) for worker in here)

    def _link_from(self, source: str, now_s: float) -> LinkEstimate | None:
        known = self.links.get(f"{source}.{self.site}")
        return known[0] if known and now_s - known[1] <= LINK_TIMEOUT_S else None
