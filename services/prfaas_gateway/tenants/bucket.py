"""A token bucket: an amount that may be used now, and that refills evenly."""

import math
from typing import Final

_ROUNDING: Final = 1e-9
"""Relative error that sums of floats may have. It must not keep a request out at the moment that was promised."""


class Bucket:
    """Pure: moments of one clock, in s, come in with the calls. A new bucket is full.

    What is taken later than it was asked for may take the level below zero. It then refills before anything else is let in."""

    def __init__(self, capacity: float, per_s: float, now_s: float) -> None:
        assert capacity > 0 and per_s > 0
        self.capacity = capacity
        self._per_s = per_s
        self._level = capacity
        self._at_s = now_s

    def level(self, now_s: float) -> float:
        return min(self.capacity, self._level + max(0.0, now_s - self._at_s) * self._per_s)

    def seconds_until(self, amount: float, now_s: float) -> float:
        """Returns the time until the level is `amount`, should nothing be taken; 0 when it is, infinity above the capacity."""
        if amount > self.capacity * (1 + _ROUNDING):
            return math.inf
        missing = amount * (1 - _ROUNDING) - self.level(now_s)
        return max(0.0, missing / self._per_s)

    def take(self, amount: float, now_s: float) -> None:
        """Takes an amount, or gives back a negative one."""
        self._level = min(self.capacity, self.level(now_s) - amount)
        self._at_s = max(self._at_s, now_s)

    def resize(self, capacity: float, per_s: float, now_s: float) -> None:
        """Changes the size. What was used stays used."""
        used = self.capacity - self.level(now_s)
        self._level = capacity - used
        self.capacity, self._per_s, self._at_s = capacity, per_s, max(self._at_s, now_s)

    def validate(self) -> None:
        assert self._level <= self.capacity
