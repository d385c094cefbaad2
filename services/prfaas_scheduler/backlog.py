"""Prefills placed on one site and not over yet: the wait behind them, and the bytes that the link has still to carry.

The scheduler counts its own placements, because a heartbeat is up to a second old, and a site's queue is not announced.
"""

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(slots=True)
class _Placed:
    work_s: float
    kv_bytes: float
    started_at: float | None
    """Moment at which a worker of the site must have taken it, first come first served; None while it waits."""


class Backlog:
    """Queue of one site. Moments are the caller's clock. Every query and change costs the same however long the queue is."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, _Placed] = OrderedDict()
        self._running: dict[str, _Placed] = {}
        self._waiting_s = 0.0
        self._sum_of_ends_at = 0.0
        """Sum, over the running, of the moments at which each should end."""
        self.kv_bytes = 0.0
        """KV bytes still to ship."""
        self._worker_of: dict[str, str] = {}
        """Request -> the one worker that may take it."""
        self._bound: dict[str, Backlog] = {}
        """Worker -> requests that only it may take."""
        self._stacked = 0
        """Number of bound requests behind another one of their worker: they keep no other worker busy."""

    def __len__(self) -> int:
        return len(self._waiting) + len(self._running)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._waiting or request_id in self._running

    def add(
        self,
        request_id: str,
        work_s: float,
        kv_bytes: float,
        workers: int,
        now_s: float,
        worker: str | None = None,
    ) -> None:
        """Queues a prompt for `workers` workers. `worker`: the only one that may take it."""
        assert request_id not in self, "one request has one attempt at a time"
        if worker is not None:
            self._bind(request_id, work_s, worker, workers, now_s)
        self._waiting[request_id] = _Placed(work_s, kv_bytes, None)
        self._waiting_s += work_s
        self.kv_bytes += kv_bytes
        self._start(workers, now_s)

    def remove(self, request_id: str, workers: int, now_s: float) -> None:
        """Removes a request whose prefill is over; an unknown one changes nothing."""
        if (placed := self._waiting.pop(request_id, None)) is not None:
            self._waiting_s -= placed.work_s
            self.kv_bytes -= placed.kv_bytes
        elif (placed := self._running.pop(request_id, None)) is not None:
            assert placed.started_at is not None
            self._sum_of_ends_at -= placed.started_at + placed.work_s
            self.kv_bytes -= placed.kv_bytes
        else:
            return
        if request_id in self._worker_of:
            self._unbind(request_id, now_s)
        self._start(workers, now_s)
        if not len(self):
            # No rounding error outlives an empty queue.
            self._waiting_s = self._sum_of_ends_at = self.kv_bytes = 0.0

    def wait_s(self, workers: int, now_s: float) -> float:
        """Wait until one of `workers` is free for the next request: the work in front of it, spread evenly over them."""
        if len(self._running) < workers or len(self) - self._stacked < workers:
            return 0.0
        return self._current_left_s(workers, now_s) + max(0.0, self._waiting_s) / max(1, workers)

    def worker_wait_s(self, worker: str, workers: int, now_s: float) -> float:
        """Wait until this one of `workers` is free, which takes what is bound to it first."""
        own = self._bound.get(worker)
        return own.wait_s(1, now_s) if own is not None else self._current_left_s(workers, now_s)

    def _current_left_s(self, workers: int, now_s: float) -> float:
        """Mean time left of the prompt that a worker runs: which worker took which prompt is not known."""
        return max(0.0, self._sum_of_ends_at - now_s * len(self._running)) / max(1, workers)

    def _bind(self, request_id: str, work_s: float, worker: str, workers: int, now_s: float) -> None:
        ahead_s = self.worker_wait_s(worker, workers, now_s) if worker not in self._bound else 0.0
        own = self._bound.setdefault(worker, Backlog())
        own.add(request_id, ahead_s + work_s, 0.0, 1, now_s)
        self._worker_of[request_id] = worker
        self._stacked += len(own) > 1

    def _unbind(self, request_id: str, now_s: float) -> None:
        worker = self._worker_of.pop(request_id)
        own = self._bound[worker]
        own.remove(request_id, 1, now_s)
        self._stacked -= len(own) > 0
        if not len(own):
            del self._bound[worker]

    def _start(self, workers: int, now_s: float) -> None:
        while self._waiting and len(self._running) < workers:
            request_id, placed = self._waiting.popitem(last=False)
            self._waiting_s -= placed.work_s
            placed.started_at = now_s
            self._sum_of_ends_at += now_s + placed.work_s
            self._running[request_id] = placed

    def validate(self) -> None:
        assert all(placed.started_at is None for placed in self._waiting.values())
        assert abs(self._waiting_s - sum(placed.work_s for placed in self._waiting.values())) < 1e-3
        for worker, own in self._bound.items():
            own.validate()
            assert len(own) and len(own) == sum(bound_to == worker for bound_to in self._worker_of.values())
        assert all(request_id in self and request_id in self._bound[worker] for request_id, worker in self._worker_of.items())
        assert self._stacked == sum(len(own) - 1 for own in self._bound.values())
        placed = [*self._waiting.values(), *self._running.values()]
        assert abs(self.kv_bytes - sum(each.kv_bytes for each in placed)) < 1.0 + 1e-9 * self.kv_bytes
