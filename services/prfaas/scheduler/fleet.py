"""What the scheduler knows of the world: workers by their heartbeats, links by their estimates."""

from collections import Counter
from dataclasses import dataclass, field

from prfaas.capacity.observed import predicted_prefill_s
from prfaas.contracts.to_scheduler import Heartbeat, LinkEstimate, Role

HEARTBEAT_TIMEOUT_S = 3.5
"""Three missed beats and some slack: then a worker counts as dead, whatever its bucket still says."""

LINK_TIMEOUT_S = 15.0
"""An estimate older than this says nothing about the link now."""


@dataclass(slots=True)
class Worker:
    beat: Heartbeat
    heard_s: float
    placed_tokens: int = 0
    """Prefill tokens placed here since the last beat, which therefore does not show them yet."""
    placed_requests: int = 0

    @property
    def queued_tokens(self) -> int:
        return self.beat.queued_tokens + self.placed_tokens

    @property
    def load(self) -> int:
        """Decode requests held or on their way."""
        return self.beat.running + self.beat.waiting + self.placed_requests


@dataclass(slots=True)
class PrefillSite:
    """All prefill workers of one site that can serve one decode worker, as one queue: they share the site's work queue."""

    site: str
    workers: list[Worker]
    link: LinkEstimate | None
    """From that site to the decode site; None within a site, or while nothing is known."""

    @property
    def queued_tokens(self) -> int:
        return sum(worker.queued_tokens for worker in self.workers)

    def prefill_s(self, tokens: int) -> float | None:
        """Expected wait behind the queue plus one worker's time for `tokens`; None while nothing has been observed."""
        points = next((worker.beat.prefill_points for worker in self.workers if worker.beat.prefill_points), ())
        own_s = predicted_prefill_s(points, tokens)
        queue_s = predicted_prefill_s(points, self.queued_tokens) if self.queued_tokens else 0.0
        if own_s is None or queue_s is None:
            return None
        return queue_s / len(self.workers) + own_s


@dataclass(slots=True)
class Fleet:
    site: str
    """The pd site whose scheduler this is."""
    workers: dict[str, Worker] = field(default_factory=dict)
    links: dict[str, tuple[LinkEstimate, float]] = field(default_factory=dict)

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
            if worker.beat.role is role
            and worker.beat.model == model
            and not worker.beat.draining
            and now_s - worker.heard_s <= HEARTBEAT_TIMEOUT_S
        ]

    def count(self, now_s: float) -> Counter[tuple[str, Role]]:
        """Known workers by site and role, of which the silent and draining ones count 0."""
        found: Counter[tuple[str, Role]] = Counter()
        for worker in self.workers.values():
            alive = not worker.beat.draining and now_s - worker.heard_s <= HEARTBEAT_TIMEOUT_S
            found[worker.beat.site, worker.beat.role] += int(alive)
        return found

    def serves(self, model: str) -> bool:
        """Whether any worker, alive or not, has announced the model."""
        return any(worker.beat.model == model for worker in self.workers.values())

    def prefill_sites(self, model: str, fingerprint: str, now_s: float) -> dict[str, PrefillSite]:
        """Sites with live prefill workers whose KV a decode worker with `fingerprint` can install."""
        sites: dict[str, PrefillSite] = {}
        for worker in self.alive(Role.PREFILL, model, now_s):
            if worker.beat.fingerprint != fingerprint:
                continue
            name = worker.beat.site
            if name not in sites:
                sites[name] = PrefillSite(name, [], self._link_from(name, now_s))
            sites[name].workers.append(worker)
        return sites

    def _link_from(self, source: str, now_s: float) -> LinkEstimate | None:
        known = self.links.get(f"{source}.{self.site}")
        return known[0] if known and now_s - known[1] <= LINK_TIMEOUT_S else None
