"""Jobs in the order of their due dates, cut into blocks, so that the first one to be late is found without walking over all.

A job's room is the work, over all workers of the site, that may be in front of it: capacity x (latest start - now). The capacity
is the work that they do in a second, and the latest start is the one on the fastest of them. A block keeps the sum of its work
and its least room less the work before it in the block, so that a search skips blocks that are in time.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from math import inf

from prfaas_scheduler.queue.events import Job

BLOCK = 64
"""Jobs after which a block is cut in two."""
LEAST_CHANGE = 0.01
"""Share of the capacity by which it must change for jobs to be looked at anew: paces of a large site change often and little."""
OVERTAKEN = 256
"""Jobs that are searched for one that may overtake."""

Key = tuple[int, float, int]
"""(lowest first: the negative priority, the due date, the number of its arrival)."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A job that waits, and how it stands in the order."""

    job: Job
    number: int
    """Number of its arrival."""
    latest_end_at: float
    """Moment that counts as its due date: `due_at`, or for a job that was put off and whose turn has come, its last moment."""
    put_off: bool = False
    """True if it was put off once."""
    in_order: bool = False
    """True while it is in the order of due dates."""
    overdue: bool = False
    """True once nothing can be done for it to be in time: no other job gives way for it."""

    @property
    def key(self) -> Key:
        return -self.job.priority, self.latest_end_at, self.number

    def latest_start_at(self, pace: float) -> float:
        """Latest start on a worker of this pace."""
        return self.latest_end_at - self.job.work_s * pace


@dataclass(slots=True)
class _Block:
    keys: list[Key] = field(default_factory=list)
    work_s: float = 0.0
    spare_s: float = inf
    """Least of (capacity x latest start - work before it in the block)."""
    longest: dict[str, Waiting] | None = None
    """Longest job by tenant that may be put off; None until it is asked for."""


class DueOrder:
    """Ordered jobs of one model. The capacity scales every room."""

    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        self._jobs: dict[Key, Waiting] = {}
        self._workers = 0
        self._capacity = 0.0
        self._pace = 1.0
        self.work_s = 0.0
        """Work of all its jobs."""

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Waiting]:
        return (self._jobs[key] for block in self._blocks for key in block.keys)

    def set_workers(self, workers: int, capacity: float, pace: float) -> None:
        """`capacity`: work that they do in a second; `pace`: of the fastest. A change of the capacity that is not worth a walk
        over all jobs waits for a larger one."""
        if workers != self._workers or pace != self._pace or abs(capacity - self._capacity) > LEAST_CHANGE * capacity:
            self._workers, self._capacity, self._pace = workers, capacity, pace
            for block in self._blocks:
                self._recount(block)

    def add(self, waiting: Waiting) -> None:
        key = waiting.key
        self._jobs[key] = waiting
        self.work_s += waiting.job.work_s
        if not self._blocks:
            self._blocks.append(_Block([key]))
            self._recount(self._blocks[0])
            return
        index = min(self._block_of(key), len(self._blocks) - 1)
        block = self._blocks[index]
        insort(block.keys, key)
        if len(block.keys) > BLOCK:
            rest = _Block(block.keys[BLOCK // 2 :])
            del block.keys[BLOCK // 2 :]
            self._blocks.insert(index + 1, rest)
            self._recount(rest)
        self._recount(block)

    def remove(self, waiting: Waiting) -> None:
        key = waiting.key
        del self._jobs[key]
        self.work_s = self.work_s - waiting.job.work_s if self._jobs else 0.0
        index = self._block_of(key)
        block = self._blocks[index]
        del block.keys[bisect_left(block.keys, key)]
        if block.keys:
            self._recount(block)
        else:
            del self._blocks[index]

    def give_up(self, waiting: Waiting) -> None:
        """Marks a job as overdue."""
        waiting.overdue = True
        self._recount(self._blocks[self._block_of(waiting.key)])

    def first_late(self, ahead_s: float, now_s: float) -> tuple[Waiting, float] | None:
        """The first job in the order that starts too late and is not overdue, and by how much; None without any. `ahead_s`: work
        left of the jobs that run, over all workers."""
        before_s = ahead_s + now_s * self._capacity
        for block in self._blocks:
            if before_s > block.spare_s:
                for key in block.keys:
                    waiting = self._jobs[key]
                    late_s = before_s - self._capacity * waiting.latest_start_at(self._pace)
                    if late_s > 0 and not waiting.overdue:
                        return waiting, (late_s / self._capacity if self._capacity else late_s)
                    before_s += waiting.job.work_s
            else:
                before_s += block.work_s
        return None

    def longest(self, until: Waiting, among: Callable[[str], bool]) -> Waiting | None:
        """The longest job, of several the last one, of the same priority, up to `until` in the order, that was never put off, of
        the tenants that `among` accepts; None if there is none."""
        last, priority = until.key, until.key[0]
        best: Waiting | None = None
        for block in self._blocks[self._block_of((priority, -inf, 0)) :]:
            inside = block.keys[0][0] == priority and block.keys[-1] <= last
            for found in self._longest_of(block, last, priority, whole=inside):
                if among(found.job.tenant) and (best is None or found.job.work_s >= best.job.work_s):
                    best = found
            if block.keys[-1] >= last:
                break
        return best

    def overtaker(self, ahead_s: float, now_s: float, among: Callable[[Waiting], bool]) -> Waiting | None:
        """The first job accepted by `among` that can run before all others without making one of them late.

        Only jobs of the highest priority are searched. None without such a job, or where one before it is late already.
        `ahead_s`: see `first_late`."""
        before_s, room_s = ahead_s + now_s * self._capacity, inf
        priority = next(iter(self)).job.priority if self._jobs else 0
        for waiting in islice(self, OVERTAKEN):
            if room_s < 0 or waiting.overdue or waiting.job.priority != priority:
                return None
            if waiting.job.work_s <= room_s and among(waiting):
                return waiting
            room_s = min(room_s, self._capacity * waiting.latest_start_at(self._pace) - before_s)
            before_s += waiting.job.work_s
        return None

    def _longest_of(self, block: _Block, last: Key, priority: int, *, whole: bool) -> list[Waiting]:
        """The longest job of each tenant in the block. `whole`: all of the block is of the priority, and not behind `last`."""
        if not whole:
            return list(self._by_tenant([key for key in block.keys if key[0] == priority and key <= last]).values())
        if block.longest is None:
            block.longest = self._by_tenant(block.keys)
        return list(block.longest.values())

    def _by_tenant(self, keys: list[Key]) -> dict[str, Waiting]:
        found: dict[str, Waiting] = {}
        for key in keys:
            waiting = self._jobs[key]
            best = found.get(waiting.job.tenant)
            if not waiting.put_off and (best is None or waiting.job.work_s >= best.job.work_s):
                found[waiting.job.tenant] = waiting
        return found

    def _block_of(self, key: Key) -> int:
        """Index of the first block that does not end before the key."""
        return bisect_left(self._blocks, key, key=lambda block: block.keys[-1])

    def _recount(self, block: _Block) -> None:
        work_s, spare_s = 0.0, inf
        for key in block.keys:
            waiting = self._jobs[key]
            if not waiting.overdue:
                spare_s = min(spare_s, self._capacity * waiting.latest_start_at(self._pace) - work_s)
            work_s += waiting.job.work_s
        block.work_s, block.spare_s, block.longest = work_s, spare_s, None

    def validate(self) -> None:
        keys = [key for block in self._blocks for key in block.keys]
        assert keys == sorted(self._jobs) and all(waiting.key == key for key, waiting in self._jobs.items())
        assert abs(self.work_s - sum(waiting.job.work_s for waiting in self._jobs.values())) < 1e-3
        for block in self._blocks:
            assert 0 < len(block.keys) <= BLOCK
            before = block.work_s, block.spare_s
            self._recount(block)
            assert before == (block.work_s, block.spare_s)
