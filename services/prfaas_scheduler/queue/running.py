"""Workers of one model at one site: which are ready, and how much work the others have left."""

import heapq
from collections import OrderedDict
from math import exp

REMEMBERED_S = 60.0
"""Time after which a moment counts for 1 / e in the share of the workers' time that is spare."""
IDLE_BEFORE_S = 10.0
"""Time before the first event in which the workers count as idle."""


class Running:
    """Workers by name. Time moves by `advance` and never back."""

    def __init__(self, now_s: float) -> None:
        self.ready: OrderedDict[str, None] = OrderedDict()
        """Workers that wait for a job, the one that has waited longest first."""
        self._ends_at: dict[str, tuple[float, int]] = {}
        """(moment at which it should end, number of its job) by busy worker."""
        self._jobs = 0
        self._ends: list[tuple[float, int, str]] = []
        """Heap of those moments that are still to come, and outdated entries."""
        self._counted = 0
        self._sum_of_ends_at = 0.0
        """Sum of the moments that are still to come."""
        self._now_s = now_s
        self._spare: set[str] = set()
        """Busy workers whose jobs were not due."""
        self.spare_share = 1.0
        """Share of the workers' time, lately, in which they were ready or had jobs that were not due."""
        self._seen_s = IDLE_BEFORE_S
        """Time that this share is of, fading."""

    def __len__(self) -> int:
        return len(self.ready) + len(self._ends_at)

    def __contains__(self, worker: str) -> bool:
        return worker in self.ready or worker in self._ends_at

    @property
    def left_s(self) -> float:
        """Work left of the jobs that run, as predicted, over all workers."""
        return max(0.0, self._sum_of_ends_at - self._counted * self._now_s)

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
                self._uncount(ends_at)

    def make_ready(self, worker: str) -> None:
        self._end(worker)
        self.ready.setdefault(worker)

    def begin(self, worker: str, work_s: float, *, due: bool) -> None:
        """Gives a ready worker a job."""
        del self.ready[worker]
        self._jobs += 1
        ends_at = self._now_s + work_s
        self._ends_at[worker] = ends_at, self._jobs
        if not due:
            self._spare.add(worker)
        if ends_at > self._now_s:
            heapq.heappush(self._ends, (ends_at, self._jobs, worker))
            self._counted += 1
            self._sum_of_ends_at += ends_at
            if len(self._ends) > 2 * len(self) + 64:
                self._ends = [(at, number, name) for name, (at, number) in self._ends_at.items() if at > self._now_s]
                heapq.heapify(self._ends)

    def remove(self, worker: str) -> None:
        self._end(worker)
        self.ready.pop(worker, None)

    def _end(self, worker: str) -> None:
        self._spare.discard(worker)
        ends_at, _ = self._ends_at.pop(worker, (self._now_s, 0))
        if ends_at > self._now_s:
            self._uncount(ends_at)

    def _uncount(self, ends_at: float) -> None:
        self._counted -= 1
        self._sum_of_ends_at = self._sum_of_ends_at - ends_at if self._counted else 0.0

    def validate(self) -> None:
        assert not self.ready.keys() & self._ends_at.keys() and self._spare <= self._ends_at.keys()
        assert -1e-9 <= self.spare_share <= 1 + 1e-9
        to_come = [ends_at for ends_at, _ in self._ends_at.values() if ends_at > self._now_s]
        assert self._counted == len(to_come) and abs(self._sum_of_ends_at - sum(to_come)) < 1e-3
        assert len(self._ends) <= 2 * len(self) + 64, "outdated entries are bounded"
