"""The next job of a worker that is ready."""

from collections.abc import Callable, Mapping
from itertools import islice

from prfaas_scheduler.queue.due_order import DueOrder, Waiting
from prfaas_scheduler.queue.events import Job
from prfaas_scheduler.queue.faster import LOOKED_AT, Faster
from prfaas_scheduler.queue.heads import Heads
from prfaas_scheduler.queue.running import Running
from prfaas_scheduler.queue.tenants import Backlogs, DeficitRoundRobin


class NextJob:
    """Choice among the jobs of one model. All that it chooses from is owned by the queue."""

    def __init__(
        self,
        running: Running,
        order: DueOrder,
        heads: Heads,
        backlogs: Backlogs,
        put_off: Mapping[str | None, DeficitRoundRobin],
        last_end_at: Callable[[Job], float],
    ) -> None:
        """`last_end_at`: moment by which a job that was put off should end."""
        self._running, self._order, self._heads, self._backlogs = running, order, heads, backlogs
        self._put_off, self._last_end_at = put_off, last_end_at

    def take(self, worker: str, now_s: float) -> Waiting | None:
        """The first job in the order, or one of a tenant that waits for far less and can overtake it; None without any.

        Without any in the order it is one that was put off, which leaves the queue of those. Jobs that faster workers serve
        better are left to them."""
        faster = self._running.faster(worker)
        if (first := self._heads.first(worker)) is not None:
            found = self._overtaker(first, worker, now_s)
            if not faster or not self._is_left(found, worker, now_s, self._running.faster(worker)):
                return found
            for waiting in islice(self._order, LOOKED_AT):
                if waiting.job.worker in (None, worker) and not self._is_left(waiting, worker, now_s, faster):
                    return waiting
        for target in (worker, None):
            queue = self._put_off.get(target)
            if queue is not None and (late := self._pop(queue, worker, now_s, faster)) is not None:
                return late
        return None

    def _overtaker(self, first: Waiting, worker: str, now_s: float) -> Waiting:
        if len(self._backlogs) < 2:
            return first

        def may_overtake(waiting: Waiting) -> bool:
            return waiting.job.worker in (None, worker) and self._backlogs.is_below(waiting.job.tenant, first.job.tenant)

        return self._order.overtaker(self._running.left_s, now_s, may_overtake) or first

    def _pop(self, queue: DeficitRoundRobin, worker: str, now_s: float, faster: Faster) -> Waiting | None:
        passed: list[Waiting] = []
        late = queue.pop()
        while late is not None and self._is_left(late, worker, now_s, faster):
            passed.append(late)
            late = queue.pop() if len(passed) < LOOKED_AT else None
        for waiting in passed:
            queue.put_back(waiting)
        return late

    def _is_left(self, waiting: Waiting, worker: str, now_s: float, faster: Faster) -> bool:
        """True if faster workers serve the job better than this one, which is ready."""
        if waiting.job.worker is not None:
            return False
        due_at = waiting.latest_end_at if waiting.in_order else self._last_end_at(waiting.job)
        return faster.takes(waiting, now_s + waiting.job.work_s * self._running.pace(worker), due_at)
