"""T_prefill(l) as a worker observes it: a few points that every finished prefill moves, and what lies between them.

Time is not tokens divided by a rate: it has a constant and it bends upward. So points are kept per length, two to an octave.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

SMOOTHING = 0.3
"""Weight of the newest prefill in its point."""
POINTS_PER_OCTAVE = 2


class ObservedPoint(NamedTuple):
    tokens: float
    prefill_s: float


class ObservedPrefill:
    """A worker's own record."""

    def __init__(self) -> None:
        self._points: dict[int, ObservedPoint] = {}

    def observe(self, tokens: int, prefill_s: float) -> None:
        bucket = round(math.log2(tokens) * POINTS_PER_OCTAVE)
        old = self._points.get(bucket)
        if old is None:
            self._points[bucket] = ObservedPoint(tokens, prefill_s)
        else:
            self._points[bucket] = ObservedPoint(
                old.tokens + (tokens - old.tokens) * SMOOTHING, old.prefill_s + (prefill_s - old.prefill_s) * SMOOTHING
            )

    def points(self) -> tuple[tuple[float, float], ...]:
        """(tokens, seconds) in rising order of tokens, for a heartbeat."""
        return tuple((point.tokens, point.prefill_s) for _, point in sorted(self._points.items()))


def interpolated(points: Sequence[tuple[float, float]], tokens: float) -> float | None:
    """Between two points on the line through them; below the first, as much as the first; above the last, in proportion to it:
    too little for a curve that bends upward. None without any point."""
    if not points:
        return None
    at = bisect_left(points, (tokens, 0.0))
    if at == 0:
        return points[0][1]
    low_tokens, low = points[at - 1]
    if at == len(points):
        return low * tokens / low_tokens
    high_tokens, high = points[at]
    return low + (high - low) * (tokens - low_tokens) / (high_tokens - low_tokens)
