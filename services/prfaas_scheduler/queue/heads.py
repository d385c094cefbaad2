"""First jobs in the order of due dates, by the worker that alone may take them."""

import heapq
from collections.abc import Mapping

from prfaas_scheduler.queue.due_order import Key, Waiting


class Heads:
    """Heaps with an entry for each job in the order, and outdated entries that are dropped when they come up."""

    def __init__(self, waiting: Mapping[str, Waiting]) -> None:
        """`waiting`: all jobs that wait, by id; owned by the queue."""
        self._waiting = waiting
        self._heaps: dict[str | None, list[tuple[Key, str]]] = {}
        """Heap of (key, job id) by worker; None: jobs that any worker may take."""

    def add(self, waiting: Waiting) -> None:
        heapq.heappush(self._heaps.setdefault(waiting.job.worker, []), (waiting.key, waiting.job.job_id))

    def first(self, worker: str) -> Waiting | None:
        """The first job that the worker may take; None without any."""
        heads = [found for target in (worker, None) if (found := self._head(target)) is not None]
        return min(heads, key=lambda waiting: waiting.key, default=None)

    def release(self, worker: str) -> list[Waiting]:
        """Removes the jobs that the worker alone may take, and returns them."""
        entries = self._heaps.pop(worker, [])
        return [found for key, job_id in entries if (found := self._current(key, job_id)) is not None]

    def _head(self, target: str | None) -> Waiting | None:
        heap = self._heaps.get(target)
        while heap:
            if (waiting := self._current(*heap[0])) is not None:
                return waiting
            heapq.heappop(heap)
        self._heaps.pop(target, None)
        return None

    def _current(self, key: Key, job_id: str) -> Waiting | None:
        """The job of an entry; None where the entry is outdated."""
        waiting = self._waiting.get(job_id)
        return waiting if waiting is not None and waiting.in_order and waiting.key == key else None
