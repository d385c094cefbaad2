"""Workers of one model at one site: which are ready, how fast each is, and how much work the others have left.

Work is counted in seconds of a worker of pace 1. One of pace 3 takes three times as long for the same work.
"""

import heapq
from bisect import bisect_left, insort
from collections import OrderedDict
from math import exp

from prfaas_scheduler.queue.faster import LOOKED_AT, Faster

REMEMBERED_S = 60.0
"""Time after which a moment counts for 1 / e in the share of the workers' time that is spare."""
IDLE_BEFORE_S = 10.0
"""Time before the first event in which the workers count as idle."""


class Running:
    """Workers by name. Time moves by `advance` and never back."""

    def __init__(self, now_s: float) -> None:
        self.ready: OrderedDict[str, None] = OrderedDict()
        """Workers that wait for a job, the one that has waited longest first."""
        self._ready: dict[float, OrderedDict[str, None]] = {}
        """The same by pace."""
        self._pace: dict[str, float] = {}
        """Pace of each worker as it last was ready."""
        self._kinds: dict[float, int] = {}
        """Number of workers by pace."""
        self.capacity = 0.0
        """Work that all workers do in a second."""
        self.least_pace = 1.0
        """Pace of the fastest worker; 1 without any."""
        self._ends_at: dict[str, tuple[float, int]] = {}
        """(moment at which it should end, number of its job) by busy worker."""
        self._ends_by_pace: dict[float, list[tuple[float, int, str]]] = {}
        """The same of the busy workers of each pace, in rising order."""
        self._jobs = 0
        self._ends: list[tuple[float, int, str]] = []
        """Heap of those moments that are still to come, and outdated entries."""
        self._counted = 0
        """Number of these moments."""
        self._counted_speed = 0.0
        """Sum of the speeds of their workers."""
        self._sum_of_ends_at = 0.0
        """Sum of these moments, each times the speed of its worker."""
        self._now_s = now_s
        self._spare: set[str] = set()
        """Busy workers whose jobs were not due."""
        self.spare_share = 1.0
        """Share of the workers' time, lately, in which they were ready or had jobs that were not due."""
        self._seen_s = IDLE_BEFORE_S
        """Time that this share is of, fading."""

    def __len__(self) -> int:
        return len(self._pace)

    def __contains__(self, worker: str) -> bool:
        return worker in self._pace

    @property
    def left_s(self) -> float:
        """Work left of the jobs that run, as predicted, over all workers."""
        return max(0.0, self._sum_of_ends_at - self._counted_speed * self._now_s)

    @property
    def alike(self) -> bool:
        """True while all workers have one pace."""
        return len(self._kinds) < 2

    def pace(self, worker: str) -> float:
        return self._pace[worker]

    def fastest_ready(self) -> list[str]:
        """Returns the fastest worker that is ready, of several the one that has waited longest, if there is one."""
        if not self.ready:
            return []
        return [next(iter(self._ready[min(self._ready)]))]

    def ready_paces(self) -> list[float]:
        """Returns the paces of the workers that are ready, the fastest first."""
        return sorted(self._ready)

    def first_ready(self, pace: float) -> str | None:
        """Returns the worker of this pace that has been ready for longest; None without any."""
        workers = self._ready.get(pace)
        return next(iter(workers)) if workers else None

    def faster(self, worker: str) -> Faster:
        """Returns the busy workers that are faster than this one, and when each should be free."""
        own = self._pace[worker]
        return Faster(
            {
                pace: [max(self._now_s, ends_at) for ends_at, _, _ in ends[:LOOKED_AT]]
                for pace, ends in self._ends_by_pace.items()
                if pace < own
            }
        )

    def advance(self, now_s: float) -> None:
        if now_s > self._now_s and len(self):
            left = exp((self._now_s - now_s) / REMEMBERED_S)
            new_s, old_s = REMEMBERED_S * (1 - left), self._seen_s * left
            share = (len(self.ready) + len(self._spare)) / len(self)
            self.spare_share = (self.spare_share * old_s + share * new_s) / (old_s + new_s)
            self._seen_s = old_s + new_s
        self._now_s = now_s
        while self._ends and self._ends[0][0] <= now_s:
            ends_at, number, worker = heapq.heappop(self._ends)
            if self._ends_at.get(worker) == (ends_at, number):
                self._uncount(ends_at, worker)

    def make_ready(self, worker: str, pace: float) -> None:
        """`pace`: its time for a prefill over that of a worker of pace 1, above 0."""
        self._end(worker)
        if self._pace.get(worker) != pace:
            self._leave(worker)
            self._pace[worker] = pace
            self._kinds[pace] = self._kinds.get(pace, 0) + 1
            self._count_kinds()
        self.ready.setdefault(worker)
        self._ready.setdefault(pace, OrderedDict()).setdefault(worker)

    def begin(self, worker: str, work_s: float, *, due: bool) -> None:
        """Gives a ready worker a job. `work_s`: of a worker of pace 1."""
        pace = self._pace[worker]
        self._unready(worker)
        self._jobs += 1
        ends_at = self._now_s + work_s * pace
        self._ends_at[worker] = ends_at, self._jobs
        insort(self._ends_by_pace.setdefault(pace, []), (ends_at, self._jobs, worker))
        if not due:
            self._spare.add(worker)
        if ends_at > self._now_s:
            heapq.heappush(self._ends, (ends_at, self._jobs, worker))
            self._counted += 1
            self._counted_speed += 1 / pace
            self._sum_of_ends_at += ends_at / pace
            if len(self._ends) > 2 * len(self) + 64:
                self._ends = [(at, number, name) for name, (at, number) in self._ends_at.items() if at > self._now_s]
                heapq.heapify(self._ends)

    def remove(self, worker: str) -> None:
        self._end(worker)
        self._leave(worker)

    def _leave(self, worker: str) -> None:
        """Forgets a worker that is not busy."""
        pace = self._pace.get(worker)
        if pace is None:
            return
        self._unready(worker)
        del self._pace[worker]
        self._kinds[pace] -= 1
        if not self._kinds[pace]:
            del self._kinds[pace]
        self._count_kinds()

    def _unready(self, worker: str) -> None:
        if worker in self.ready:
            del self.ready[worker]
            pace = self._pace[worker]
            del self._ready[pace][worker]
            if not self._ready[pace]:
                del self._ready[pace]

    def _count_kinds(self) -> None:
        self.capacity = sum(number / pace for pace, number in self._kinds.items())
        self.least_pace = min(self._kinds, default=1.0)

    def _end(self, worker: str) -> None:
        self._spare.discard(worker)
        ending = self._ends_at.pop(worker, None)
        if ending is None:
            return
        ends_at, number = ending
        pace = self._pace[worker]
        ends = self._ends_by_pace[pace]
        del ends[bisect_left(ends, (ends_at, number, worker))]
        if not ends:
            del self._ends_by_pace[pace]
        if ends_at > self._now_s:
            self._uncount(ends_at, worker)

    def _uncount(self, ends_at: float, worker: str) -> None:
        self._counted -= 1
        speed = 1 / self._pace[worker]
        # No rounding error outlives the last of them.
        self._counted_speed = self._counted_speed - speed if self._counted else 0.0
        self._sum_of_ends_at = self._sum_of_ends_at - ends_at * speed if self._counted else 0.0

    def validate(self) -> None:
        assert not self.ready.keys() & self._ends_at.keys() and self._spare <= self._ends_at.keys()
        assert -1e-9 <= self.spare_share <= 1 + 1e-9
        to_come = [(ends_at, self._pace[worker]) for worker, (ends_at, _) in self._ends_at.items() if ends_at > self._now_s]
        assert self._counted == len(to_come)
        assert abs(self._sum_of_ends_at - sum(ends_at / pace for ends_at, pace in to_come)) < 1e-3
        assert abs(self._counted_speed - sum(1 / pace for _, pace in to_come)) < 1e-6
        assert self._pace.keys() == self.ready.keys() | self._ends_at.keys()
        assert abs(self.capacity - sum(1 / pace for pace in self._pace.values())) < 1e-6
        assert self.least_pace == min(self._pace.values(), default=1.0)
        assert sorted(self.ready) == sorted(worker for workers in self._ready.values() for worker in workers)
        assert all(workers and pace == self._pace[worker] for pace, workers in self._ready.items() for worker in workers)
        busy = sorted((ends_at, number, worker) for worker, (ends_at, number) in self._ends_at.items())
        assert busy == sorted(each for ends in self._ends_by_pace.values() for each in ends)
        assert all(ends == sorted(ends) for ends in self._ends_by_pace.values())
        assert len(self._ends) <= 2 * len(self) + 64, "outdated entries are bounded"
