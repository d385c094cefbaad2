"""One decode worker: slots with a waiting line, and a batch that gives all its requests one token per step."""

import heapq
import math
from collections import deque
from collections.abc import Generator
from itertools import count
from typing import Any

import simpy

from load.simulate.cache import BlockCache
from load.simulate.scenario import DecodePool
from prfaas.capacity.observed import ObservedTimes, RecentMean
from prfaas.contracts.terms import Role

STEP_ROUNDING = 1e-6
"""Rounding error allowed in the sum of a step's parts."""


class DecodeWorker:
    """The batch steps 1 / T_decode(batch) times a second, for the batch as it is at each moment.

    A request that joins during a step waits for its end."""

    def __init__(
        self, env: simpy.Environment, site: str, name: str, pool: DecodePool, token_scale: float, time_scale: float
    ) -> None:
        self.name = name
        self.cache = BlockCache(site, name, Role.DECODE, pool.cache_blocks)
        self.slots = pool.slots
        self.waiting_limit = pool.waiting
        self.held = 0
        self.leaving = False
        """True once it accepts no more requests."""
        self.left: simpy.Event = env.event()
        self.observed = ObservedTimes()
        """Observed step times by batch."""
        self.output_tokens = RecentMean()
        """Mean length of its answers."""
        self._env = env
        self._profile = pool.profile
        self._scale = token_scale / time_scale
        self._line: deque[simpy.Event] = deque()
        self._batch = 0
        self._steps = 0.0
        self._advanced_at = 0.0
        self._due: list[tuple[float, int, bool, simpy.Event]] = []
        """(step, order, leaves the batch, event)"""
        self._order = count()
        self._changed: simpy.Event = env.event()
        env.process(self._run())

    @property
    def waiting(self) -> int:
        return sum(not slot.triggered for slot in self._line)

    def leave(self) -> simpy.Event:
        """Stops accepting requests. Returns the event of its last request being over."""
        self.leaving = True
        self._leave_when_empty()
        return self.left

    def _leave_when_empty(self) -> None:
        if self.leaving and not self.held:
            self.left.succeed()

    def admit(self) -> simpy.Event | None:
        """Returns the event of a slot being free; None: the line is full."""
        slot: simpy.Event = self._env.event()
        if self.held < self.slots:
            self.held += 1
            slot.succeed()
        elif self.waiting >= self.waiting_limit:
            return None
        else:
            self._line.append(slot)
        return slot

    def leave_line(self, slot: simpy.Event) -> None:
        """Removes a request that gave up before it had a slot."""
        self._line.remove(slot)

    def release(self) -> None:
        """Gives the slot to the next in line."""
        if self._line:
            self._line.popleft().succeed()
        else:
            self.held -= 1
            self._leave_when_empty()

    def join(self, tokens: int) -> tuple[simpy.Event, simpy.Event]:
        """(first token, last token) of a request that has its KV."""
        self._advance()
        first, last = self._env.event(), self._env.event()
        begins = math.ceil(self._steps - STEP_ROUNDING)
        if not self._batch:
            self._steps = float(begins)
        heapq.heappush(self._due, (begins + 1.0, next(self._order), False, first))
        heapq.heappush(self._due, (float(begins + tokens), next(self._order), True, last))
        self._batch += 1
        self.observed.observe(self._batch, self.step_s(self._batch))
        self._wake()
        return first, last

    def step_s(self, batch: int) -> float:
        """T_decode of a batch. Above BS_max the machine makes no more tokens per second, as in the emulated engine."""
        full = self._profile.batch_max()
        return self._profile.step_s(min(batch, full)) * max(1.0, batch / full) * self._scale

    def _advance(self) -> None:
        if self._batch:
            self._steps += (self._env.now - self._advanced_at) / self.step_s(self._batch)
        self._advanced_at = self._env.now

    def _wake(self) -> None:
        self._changed.succeed()
        self._changed = self._env.event()

    def _run(self) -> Generator[simpy.Event, Any, None]:
        while True:
            if not self._due:
                yield self._changed
                continue
            changed = self._changed
            due_at = self._advanced_at + max(0.0, self._due[0][0] - self._steps) * self.step_s(self._batch)
            yield self._env.timeout(max(0.0, due_at - self._env.now)) | changed
            if changed.triggered:
                continue
            self._advance()
            self._steps = self._due[0][0]  # exactly: sums of floats would fall short of it again and again
            while self._due and self._due[0][0] <= self._steps:
                _, _, leaves, event = heapq.heappop(self._due)
                self._batch -= leaves
                event.succeed()
