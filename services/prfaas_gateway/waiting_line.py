"""The pace at which waiting requests get places."""

from collections import deque
from typing import Final

from prfaas.capacity.observed import RecentMean

LATEST_PLACES: Final = 64
MIN_PLACES: Final = 4
"""Least number of freed places that a pace is computed from."""


class Pace:
    """Rate at which places become free, and time from a place to the first token.

    Pure. Moments of one clock, in s, come in with the calls."""

    def __init__(self) -> None:
        self._since_at = 0.0
        self._freed_at: deque[float] = deque(maxlen=LATEST_PLACES)
        self._first_token_s = RecentMean()

    def begin(self, now_s: float) -> None:
        """Starts to count anew: an idle hour before the first request waits says nothing about the pace, nor does a time in which
        no scheduler answers."""
        self._since_at = now_s
        self._freed_at.clear()

    def place_freed(self, now_s: float) -> None:
        self._freed_at.append(now_s)

    def first_token_came(self, after_s: float) -> None:
        self._first_token_s.observe(after_s)

    def first_token_after_s(self, ahead: int, now_s: float) -> float | None:
        """Seconds to the first token of a request with `ahead` others before it; None while too little is known."""
        if len(self._freed_at) < MIN_PLACES:
            return None
        full = len(self._freed_at) == LATEST_PLACES
        counted_s = now_s - (self._freed_at[0] if full else self._since_at)
        return (ahead + 1) * counted_s / len(self._freed_at) + self._first_token_s.value
