"""Times by size, as a worker observes them: T_prefill(l) and T_decode(batch), in a few points that every observation moves.

Time is not size divided by a rate: it has a constant and it bends upward. So points are kept per size, two to an octave.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

SMOOTHING = 0.3
"""Weight of the newest observation in its point."""
POINTS_PER_OCTAVE = 2


class ObservedPoint(NamedTuple):
    size: float
    seconds: float


class ObservedTimes:
    """Record of one worker. Sizes are tokens of a prefill, or requests in a batch."""

    def __init__(self) -> None:
        self._points: dict[int, ObservedPoint] = {}
        self._listed: tuple[tuple[float, float], ...] | None = ()
        self.count = 0
        """Number of observations."""

    def observe(self, size: int, seconds: float) -> None:
        self.count += 1
        self._listed = None
        bucket = round(math.log2(size) * POINTS_PER_OCTAVE)
        old = self._points.get(bucket)
        if old is None:
            self._points[bucket] = ObservedPoint(size, seconds)
        else:
            self._points[bucket] = ObservedPoint(
                old.size + (size - old.size) * SMOOTHING, old.seconds + (seconds - old.seconds) * SMOOTHING
            )

    def points(self) -> tuple[tuple[float, float], ...]:
        """Returns (size, seconds) in rising order of size, for a heartbeat."""
        if self._listed is None:
            self._listed = tuple((point.size, point.seconds) for _, point in sorted(self._points.items()))
        return self._listed


class RecentMean:
    """Mean of the last values, which the newest moves most; 0 without any."""

    REMEMBERED = 64

    def __init__(self) -> None:
        self.value = 0.0
        self._count = 0

    def observe(self, value: float) -> None:
        self._count += 1
        self.value += (value - self.value) / min(self._count, self.REMEMBERED)


def interpolated(points: Sequence[tuple[float, float]], tokens: float) -> float | None:
    """Reads a value off the line between two points. Below the first point it is that point's; above the last it is in proportion
    to it, which is too little for a curve that bends upward. None without any point."""
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


def extrapolated(points: Sequence[tuple[float, float]], size: float) -> float | None:
    """Reads a value as `interpolated` does, but above the last point along the line from the first to the last one. A decode step
    has a large constant part: in proportion a full batch would look far too slow. The line never falls, and is never steeper than
    in proportion."""
    if not points or size <= points[-1][0]:
        return interpolated(points, size)
    (first_size, first_s), (last_size, last_s) = points[0], points[-1]
    slope = (last_s - first_s) / (last_size - first_size) if last_size > first_size else 0.0
    return last_s + (size - last_size) * min(max(slope, 0.0), last_s / last_size)
