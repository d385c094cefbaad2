"""Requests that no decode worker has a place for yet, and whether they can still be served in time."""

from collections import deque
from typing import Final

from prfaas.capacity.observed import RecentMean

LATEST_PLACES: Final = 64
MIN_PLACES: Final = 4
"""Fewer say too little about the pace."""


class Pace:
    """How fast places become free while requests wait for one, and how long an accepted request takes to its first token.

    Pure: moments of any one clock, in s, come in with the calls."""

    def __init__(self) -> None:
        self._since_at = 0.0
        self._freed_at: deque[float] = deque(maxlen=LATEST_PLACES)
        self._first_token_s = RecentMean()

    def begin(self, now_at: float) -> None:
        """Starts to count when the first request waits: an idle hour before says nothing about the pace."""
        self._since_at = now_at
        self._freed_at.clear()

    def place_freed(self, now_at: float) -> None:
        self._freed_at.append(now_at)

    def first_token_came(self, after_s: float) -> None:
        self._first_token_s.observe(after_s)

    def first_token_after_s(self, ahead: int, now_at: float) -> float | None:
        """Seconds to the first token of a request with `ahead` others before it; None while too little is known."""
        if len(self._freed_at) < MIN_PLACES:
            return None
        full = len(self._freed_at) == LATEST_PLACES
        counted_s = now_at - (self._freed_at[0] if full else self._since_at)
        return (ahead + 1) * counted_s / len(self._freed_at) + self._first_token_s.value
