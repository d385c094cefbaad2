"""Busy workers that are faster than one that is ready, and whether a job is better off with them.

A worker that is ready leaves a job to a faster one only where that serves the job better: by its due date rather than late, or
before its expiry rather than for nothing. A job that neither serves in time goes to the one that is ready.
"""

import heapq
from collections.abc import Mapping
from enum import IntEnum, auto
from typing import Final

from prfaas_scheduler.queue.due_order import Waiting

LOOKED_AT: Final = 64
"""Workers of one pace that are looked at, those that should be free first, and jobs that a worker may pass over."""


class Served(IntEnum):
    IN_TIME = auto()
    LATE = auto()
    FOR_NOTHING = auto()
    """The end comes after its expiry."""


def served(waiting: Waiting, end_at: float, due_at: float) -> Served:
    """Returns how a prefill that ends at a moment serves its job. `due_at`: the due date that counts."""
    if end_at <= due_at:
        return Served.IN_TIME
    return Served.LATE if end_at <= waiting.job.expires_at else Served.FOR_NOTHING


class Faster:
    """Jobs that are left to the workers are counted: each has one at a time."""

    def __init__(self, free_at: Mapping[float, list[float]]) -> None:
        """`free_at`: moments at which workers should be free, in rising order, by pace."""
        self._free_at = free_at

    def __bool__(self) -> bool:
        return bool(self._free_at)

    def takes(self, waiting: Waiting, end_at: float, due_at: float) -> bool:
        """Returns whether a job is left to one of them, and counts it if so. `end_at`: its end on the worker that is ready."""
        if not self._free_at:
            return False
        work_s = waiting.job.work_s
        soonest_at, pace = min((free_at[0] + work_s * pace, pace) for pace, free_at in self._free_at.items())
        if served(waiting, soonest_at, due_at) >= served(waiting, end_at, due_at):
            return False
        heapq.heapreplace(self._free_at[pace], soonest_at)
        return True
