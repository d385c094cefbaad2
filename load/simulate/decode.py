"""One decode worker: slots with a waiting line, and a batch that gives all its requests one token per step."""

import heapq
import math
from collections import deque
from collections.abc import Callable
from itertools import count

from load.simulate.cache import WorkerCache, kept_by
from load.simulate.clock import Clock
from load.simulate.scenario import DecodePool
from prfaas.capacity.observed import ObservedTimes, RecentMean
from prfaas.contracts.terms import Role

STEP_ROUNDING = 1e-6
"""Rounding error allowed in the sum of a step's parts."""
Call = Callable[[], None]


class DecodeWorker:
    """The batch steps 1 / T_decode(batch) times a second, for the batch as it is at each moment.

    A request that joins during a step waits for its end. With a limit, one that has its KV waits until the batch has room."""

    def __init__(
        self,
        clock: Clock,
        site: str,
        name: str,
        pool: DecodePool,
        token_scale: float,
        time_scale: float,
        *,
        block_tokens: int = 512,
    ) -> None:
        """`block_tokens`: size of a block of its cache, in tokens of the profile."""
        self.name = name
        kept = kept_by(Role.DECODE, pool.profile, block_tokens)
        self.cache = WorkerCache(site, name, Role.DECODE, kept, pool.cache_bytes)
        self.slots = pool.slots
        self.waiting_limit = pool.waiting
        self.held = 0
        self.leaving = False
        """True once it accepts no more requests."""
        self.has_left = False
        self.on_left: Call | None = None
        """Called when its last request is over."""
        self.observed = ObservedTimes()
        """Observed step times by batch."""
        self.output_tokens = RecentMean()
        """Mean length of its answers."""
        self._clock = clock
        self._profile = pool.profile
        self._full = pool.profile.batch_max()
        self._batch_limit = self._full if pool.batch_limited else pool.slots
        self._scale = token_scale / time_scale
        self._steps_s: dict[int, float] = {}
        self._line: dict[int, Call] = {}
        """Requests without a slot, in order, by ticket."""
        self._tickets = count()
        self._joining: deque[tuple[int, Call, Call]] = deque()
        """Requests that have their KV and wait for room in the batch: (tokens, first, last)."""
        self._batch = 0
        self._steps = 0.0
        self._advanced_at = 0.0
        self._due: list[tuple[float, int, bool, Call]] = []
        """(step, order, leaves the batch, callback)"""
        self._order = count()
        self._version = 0
        """Number of the last change of the batch; a tick of an older one is void."""

    @property
    def waiting(self) -> int:
        return len(self._line)

    @property
    def joining(self) -> int:
        return len(self._joining)

    @property
    def batch(self) -> int:
        return self._batch

    def leave(self, on_left: Call) -> None:
        """Stops accepting requests. Calls back when its last one is over."""
        self.leaving, self.on_left = True, on_left
        self._leave_when_empty()

    def _leave_when_empty(self) -> None:
        if self.leaving and not self.held and not self.has_left:
            self.has_left = True
            if self.on_left is not None:
                self.on_left()

    def admit(self, on_slot: Call) -> int | None:
        """Calls back once a slot is free, perhaps at once. Returns a ticket, by which the request may leave the line; None: the
        line is full."""
        ticket = next(self._tickets)
        if self.held < self.slots:
            self.held += 1
            on_slot()
        elif len(self._line) >= self.waiting_limit:
            return None
        else:
            self._line[ticket] = on_slot
        return ticket

    def leave_line(self, ticket: int) -> bool:
        """Removes a request that gave up before it had a slot. Returns whether it was still in the line."""
        return self._line.pop(ticket, None) is not None

    def release(self) -> None:
        """Gives the slot to the next in line."""
        if self._line:
            ticket = next(iter(self._line))
            self._line.pop(ticket)()
        else:
            self.held -= 1
            self._leave_when_empty()

    def join(self, tokens: int, first: Call, last: Call) -> None:
        """Takes a request that has its KV into the batch, when there is room. Calls back at its first and its last token."""
        if self._batch >= self._batch_limit:
            self._joining.append((tokens, first, last))
        else:
            self._join(tokens, first, last)
            self._schedule()

    def _join(self, tokens: int, first: Call, last: Call) -> None:
        self._advance()
        begins = math.ceil(self._steps - STEP_ROUNDING)
        if not self._batch:
            self._steps = float(begins)
        heapq.heappush(self._due, (begins + 1.0, next(self._order), False, first))
        heapq.heappush(self._due, (float(begins + tokens), next(self._order), True, last))
        self._batch += 1
        self.observed.observe(self._batch, self.step_s(self._batch))

    def step_s(self, batch: int) -> float:
        """T_decode of a batch. Above BS_max the machine makes no more tokens per second, as in the emulated engine."""
        found = self._steps_s.get(batch)
        if found is None:
            slower = max(1.0, batch / self._full)
            found = self._steps_s[batch] = self._profile.step_s(min(batch, self._full)) * slower * self._scale
        return found

    def _advance(self) -> None:
        if self._batch:
            self._steps += (self._clock.now_s - self._advanced_at) / self.step_s(self._batch)
        self._advanced_at = self._clock.now_s

    def _schedule(self) -> None:
        self._version += 1
        if self._due:
            due_at = self._advanced_at + max(0.0, self._due[0][0] - self._steps) * self.step_s(self._batch)
            self._clock.at(max(due_at, self._clock.now_s), self._tick, self._version)

    def _tick(self, version: int) -> None:
        if version != self._version:
            return
        self._advance()
        self._steps = self._due[0][0]  # exactly: sums of floats would fall short of it again and again
        calls = []
        while self._due and self._due[0][0] <= self._steps:
            _, _, leaves, call = heapq.heappop(self._due)
            self._batch -= leaves
            calls.append(call)
        while self._joining and self._batch < self._batch_limit:
            self._join(*self._joining.popleft())
        self._schedule()
        for call in calls:
            call()
