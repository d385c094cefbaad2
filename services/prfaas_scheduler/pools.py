"""Pools of live workers of one kind, indexed by heartbeats, so that a decision need not walk the fleet."""

import heapq
from collections.abc import Collection
from dataclasses import dataclass

from prfaas.contracts.to_scheduler import Heartbeat
from prfaas_scheduler.decode_load import place_wait_s
from prfaas_scheduler.speeds import Speeds

Points = tuple[tuple[float, float], ...]
"""A curve as (x, y) in rising order of x."""
HEARTBEAT_TIMEOUT_S = 3.5
"""Silence after which a worker counts as dead, whatever its bucket still says: three missed beats and some slack."""


@dataclass(slots=True)
class Worker:
    beat: Heartbeat
    received_at: float
    bit: int = 0
    """Its bit in BlockDirectory."""
    batch_limit: int = 1
    """Decode: largest batch that keeps the objective of time per output token."""
    placed_requests: int = 0
    """Decode: requests placed here since the last beat, which does not show them yet."""

    @property
    def load(self) -> int:
        """Decode: requests held or on their way."""
        return self.beat.running + self.beat.waiting + self.placed_requests

    def is_silent(self, now_s: float) -> bool:
        return now_s - self.received_at > HEARTBEAT_TIMEOUT_S

    @property
    def rank(self) -> tuple[float, str, str]:
        """Order in which decode workers are asked, the lowest first: by what the batch will be with one request more, as a share
        of the batch that keeps the objective, then by name."""
        return (self.load + 1) / self.batch_limit, self.beat.worker, self.beat.key

    @property
    def place_wait_s(self) -> float:
        """Decode: time until one request more has a place in the batch."""
        return place_wait_s(self.beat, self.load, self.batch_limit)


class DecodePool:
    """The decode workers of one model, the least loaded one at hand."""

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {}
        self.bits = 0
        """Bitmask of its workers in BlockDirectory."""
        self._ranks: list[tuple[float, str, str]] = []
        """Heap with an entry for each worker's present rank, and outdated ones that are dropped when they come up."""

    def __len__(self) -> int:
        return len(self._workers)

    def put(self, worker: Worker) -> None:
        """Adds a worker, or one whose beat or load has changed."""
        self._workers[worker.beat.key] = worker
        self.bits |= worker.bit
        heapq.heappush(self._ranks, worker.rank)
        self._bound_ranks()

    def drop(self, key: str) -> None:
        self.bits ^= self._workers.pop(key).bit
        self._bound_ranks()

    def _bound_ranks(self) -> None:
        if len(self._ranks) > 4 * len(self._workers) + 16:
            self._ranks = [each.rank for each in self._workers.values()]
            heapq.heapify(self._ranks)

    def without(self, names: Collection[str]) -> "DecodePool":
        """A pool of the other workers, perhaps empty. Walks the pool: only a second placement needs it."""
        others = DecodePool()
        for worker in self._workers.values():
            if worker.beat.worker not in names:
                others.put(worker)
        return others

    def least_loaded(self) -> Worker:
        """The worker with the lowest rank. The pool must not be empty."""
        while True:
            rank = self._ranks[0]
            worker = self._workers.get(rank[2])
            if worker is not None and worker.rank == rank:
                return worker
            heapq.heappop(self._ranks)

    def validate(self, expected: dict[str, Worker]) -> None:
        assert self._workers == expected and expected, "the pool holds exactly its live workers, and is gone without any"
        assert self.bits == sum(worker.bit for worker in expected.values())
        assert self.least_loaded().rank == min(worker.rank for worker in expected.values())
        assert len(self._ranks) <= 4 * max(len(self._workers), 1) + 16, "the heap is bounded"


class PrefillPool:
    """The prefill workers of one site and fingerprint: they share the site's queue."""

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {}
        self.bits = 0
        """Bitmask of its workers in BlockDirectory."""
        self.pull_bytes_per_s = 0.0
        """Rate of pulls within the site, as a worker announced it last; 0: none has."""
        self._speeds = Speeds()
        """Times of prefills, as each worker has observed them."""
        self._gone: set[str] = set()
        """Workers that were dropped since the speeds were asked for: most come back with their next beat."""

    def __len__(self) -> int:
        return len(self._workers)

    def add(self, worker: Worker) -> None:
        key = worker.beat.key
        self._workers[key] = worker
        self.bits |= worker.bit
        self.pull_bytes_per_s = worker.beat.pull_bytes_per_s or self.pull_bytes_per_s
        self._gone.discard(key)
        if worker.beat.prefill_points:
            self._speeds.announced(key, worker.beat.prefill_points)
        else:  # a new process has observed nothing
            self._speeds.gone(key)

    def drop(self, key: str) -> None:
        self.bits ^= self._workers.pop(key).bit
        self._gone.add(key)

    @property
    def queue_s(self) -> float:
        """Wait until a worker is free for the next prompt, as the workers announce it; 0 while one is idle. They look at one
        queue within a second of each other: the longest that one saw keeps schedulers from rushing to the same site at once."""
        # Ends at the first idle worker: a walk over all of a large site would be most of a decision.
        if any(worker.beat.busy_s <= 0 for worker in self._workers.values()):
            return 0.0
        beats = [worker.beat for worker in self._workers.values()]
        return (sum(beat.busy_s for beat in beats) + max(beat.queued_s for beat in beats)) / len(beats)

    @property
    def prefill_points(self) -> Points:
        """Curve of workers that, alike and as many, would do as much as these, which may be unlike."""
        while self._gone:
            self._speeds.gone(self._gone.pop())
        return self._speeds.mean_points()

    @property
    def kv_points(self) -> Points:
        """Curve of all workers: equal fingerprints have equal layouts."""
        return next(iter(self._workers.values())).beat.kv_points

    def validate(self, expected: dict[str, Worker]) -> None:
        assert self._workers == expected and expected, "the pool holds exactly its live workers, and is gone without any"
        assert self.bits == sum(worker.bit for worker in expected.values())
        assert not self._gone & self._workers.keys()
        _ = self.prefill_points
        self._speeds.validate(key for key, worker in expected.items() if worker.beat.prefill_points)
