"""What has been placed on one prefill site and is not over yet: the wait behind it, and the bytes that its link still owes.

The scheduler counts its own placements: a heartbeat is up to a second old, and nobody announces what waits in a site's queue.
"""

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(slots=True)
class _Placed:
    work_s: float
    kv_bytes: float
    started_s: float | None
    """When one of the site's workers must have taken it, first come first served; None while it waits."""


class Backlog:
    """All times are the caller's clock. Every query and change costs the same however long the queue is."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, _Placed] = OrderedDict()
        self._running: dict[str, _Placed] = {}
        self._waiting_s = 0.0
        self._ends_s = 0.0
        """Sum over the running: when each should end."""
        self.kv_bytes = 0.0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._running)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._waiting or request_id in self._running

    def add(self, request_id: str, work_s: float, kv_bytes: float, workers: int, now_s: float) -> None:
        assert request_id not in self, "one request has one attempt at a time"
        self._waiting[request_id] = _Placed(work_s, kv_bytes, None)
        self._waiting_s += work_s
        self.kv_bytes += kv_bytes
        self._start(workers, now_s)

    def remove(self, request_id: str, workers: int, now_s: float) -> None:
        """Of an unknown request: nothing."""
        if (placed := self._waiting.pop(request_id, None)) is not None:
            self._waiting_s -= placed.work_s
        elif (placed := self._running.pop(request_id, None)) is not None:
            assert placed.started_s is not None
            self._ends_s -= placed.started_s + placed.work_s
        else:
            return
        self.kv_bytes -= placed.kv_bytes
        self._start(workers, now_s)
        if not len(self):
            self._waiting_s = self._ends_s = self.kv_bytes = 0.0  # no rounding error outlives an empty queue

    def wait_s(self, workers: int, now_s: float) -> float:
        """Until one of `workers` is free for the next request: the work in front of it, spread evenly over them."""
        if len(self._running) < workers:
            return 0.0
        running_s = max(0.0, self._ends_s - now_s * len(self._running))
        return (running_s + max(0.0, self._waiting_s)) / max(1, workers)

    def _start(self, workers: int, now_s: float) -> None:
        while self._waiting and len(self._running) < workers:
            request_id, placed = self._waiting.popitem(last=False)
            placed.started_s = now_s
            self._waiting_s -= placed.work_s
            self._ends_s += now_s + placed.work_s
            self._running[request_id] = placed

    def validate(self) -> None:
        assert all(placed.started_s is None for placed in self._waiting.values())
        assert abs(self._waiting_s - sum(placed.work_s for placed in self._waiting.values())) < 1e-3
        placed = [*self._waiting.values(), *self._running.values()]
        assert abs(self.kv_bytes - sum(each.kv_bytes for each in placed)) < 1.0 + 1e-9 * self.kv_bytes
