"""Order in which a bounded cache gives up what it holds: GreedyDual, with the cache's own turnover as its clock.

A unit's place is its last use, in turnovers of the cache (bytes taken in, per byte of capacity), and a credit that grows with
its worth, which is the time to compute it again per byte, relative to the mean of all that came in, and once it was used again.
So what is dear or was useful stays longer than by recency alone, but not forever: a credit is lived off as the cache turns over.
More credit for more uses would keep the blocks of conversations that are over.

Measured on real traffic against recency alone: docs/cache-pool.md.
"""

import heapq
import math
from typing import Generic, TypeVar

CREDIT_TURNOVERS = 0.4
"""Turnovers for which a unit of mean worth, used once, outlives one of hardly any worth."""
REUSED = 1.5
"""Credit of what was used again, to that of what was used once."""
MAX_WORTH = 8.0
"""Largest worth, in means: a few bytes that are dear do not stay forever."""
_NEVER = 0
_MIN_STALE = 1024


class Unit:
    """Something that is evicted as a whole."""

    __slots__ = ("seconds", "size_bytes", "ticket", "used_at", "uses")

    def __init__(self, size_bytes: int, seconds: float) -> None:
        self.size_bytes = size_bytes
        self.seconds = seconds
        """Time that it takes to compute it again; 0 for what is of no use by itself."""
        self.uses = 0
        self.used_at = 0.0
        """Turnovers at the last use."""
        self.ticket = _NEVER
        """Names its live entry in the order; 0 while it may not be evicted."""


U = TypeVar("U", bound=Unit)


class EvictionOrder(Generic[U]):
    """Units that may be evicted, the first one at hand. Every operation takes O(log n)."""

    def __init__(self, capacity_bytes: int, credit_turnovers: float = CREDIT_TURNOVERS) -> None:
        """Takes no credit to be the order of the last uses alone."""
        self._capacity_bytes = max(1, capacity_bytes)
        self._credit_turnovers = credit_turnovers
        self._turnovers = 0.0
        self._bytes = 0
        self._seconds = 0.0
        self._heap: list[tuple[float, int, U]] = []
        """Entries of units; one whose ticket is not its unit's is stale."""
        self._tickets = _NEVER
        self._offered = 0

    def __len__(self) -> int:
        return self._offered

    @property
    def seconds_per_byte(self) -> float:
        """Mean of all that came in; 0 before anything did."""
        return self._seconds / self._bytes if self._bytes else 0.0

    def took_in(self, unit: Unit) -> None:
        """Moves the clock by a unit that was stored."""
        self._turnovers += unit.size_bytes / self._capacity_bytes
        self._bytes += unit.size_bytes
        self._seconds += unit.seconds

    def use(self, unit: Unit) -> None:
        """Counts a use. The unit must not be on offer: it is in use."""
        assert unit.ticket == _NEVER, "a unit that is used may be evicted at the same time"
        unit.uses += 1
        unit.used_at = self._turnovers

    def offer(self, unit: U) -> None:
        """Lets a unit be evicted, in its turn. One without seconds goes before all that have some."""
        if unit.ticket != _NEVER:
            return
        self._tickets += 1
        unit.ticket = self._tickets
        self._offered += 1
        heapq.heappush(self._heap, (self._place(unit), unit.ticket, unit))

    def withdraw(self, unit: Unit) -> None:
        """Keeps a unit from being evicted until it is offered again."""
        if unit.ticket != _NEVER:
            unit.ticket = _NEVER
            self._offered -= 1
            if len(self._heap) > 2 * self._offered + _MIN_STALE:
                self._heap = [entry for entry in self._heap if entry[1] == entry[2].ticket]
                heapq.heapify(self._heap)

    def take(self, *, worthless: bool = False) -> U | None:
        """Returns the unit to evict, which is not on offer any more; None without one. `worthless`: only one without seconds."""
        while self._heap:
            _, ticket, unit = self._heap[0]
            if unit.ticket == ticket and unit.seconds and worthless:
                return None
            heapq.heappop(self._heap)
            if unit.ticket == ticket:
                self.withdraw(unit)
                return unit
        return None

    def _place(self, unit: Unit) -> float:
        if not unit.seconds or not unit.size_bytes:
            return -math.inf
        worth = min(MAX_WORTH, unit.seconds / unit.size_bytes / self.seconds_per_byte)
        return unit.used_at + self._credit_turnovers * worth * (REUSED if unit.uses > 1 else 1.0)
