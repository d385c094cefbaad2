"""Prefill times of the unlike workers of one pool: one curve by length for all, and a pace for each worker.

Every worker announces a few points, and each has observed other lengths. So the shape of the curve is learned from all of them,
and of a worker only the factor on it. What a worker announces moves its own pace first, and only what is left moves the curve:
one that becomes slow changes no plan for the others.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from math import exp2, log2
from typing import Final

from prfaas.capacity.observed import ObservedTimes, interpolated
from prfaas.contracts.fields import Points

STEPS_PER_OCTAVE: Final = 4
"""Steps of a pace to a factor of 2: workers of one pace are planned for together, and noise makes no new one of each."""
LEFT_AT_STEPS: Final = 0.75
"""Distance from its pace, in steps, at which a worker gets another one."""
MAX_STEPS: Final = 6 * STEPS_PER_OCTAVE
"""Steps of the slowest worker, and of the fastest one below: a pace is between 1 / 64 and 64."""
NEAR: Final = 1.5
"""Factor on the shortest and the longest length of the curve up to which a worker is compared with it: beyond, it is a guess."""
SMOOTHING: Final = 0.5
"""Weight of the newest points in a worker's pace. They are means of several prefills already."""


MIN_S: Final = 1e-6
MAX_S: Final = 1e6
"""Bounds of a prefill's time."""


class _Worker:
    __slots__ = ("log_pace", "points", "steps")

    def __init__(self) -> None:
        self.points: Points = ()
        self.log_pace: float | None = None
        """Binary logarithm of the factor, as observed."""
        self.steps = 0
        """The same in whole steps, as planned with."""


class Speeds:
    def __init__(self) -> None:
        self._curve = ObservedTimes()
        """Seconds by tokens of a worker of pace 1."""
        self._workers: dict[str, _Worker] = {}
        """Workers that have announced times and are not gone."""
        self._kinds: dict[int, int] = {}
        """Number of them by the steps of their pace."""
        self._scaled: tuple[Points, float, Points] = (), 1.0, ()
        """Curve, mean pace, and their product."""

    def announced(self, worker: str, points: Points) -> None:
        """Takes a worker's observed (tokens, seconds) in rising order. Those that it has announced before change nothing."""
        known = self._workers.get(worker)
        if known is None:
            known = self._workers[worker] = _Worker()
            self._count(0, 1)
        if points == known.points:
            return
        old, known.points = set(known.points), points
        # A worker may announce any number: without bounds the quotient of two has no logarithm.
        news = [
            (tokens, min(max(seconds, MIN_S), MAX_S))
            for tokens, seconds in points
            if (tokens, seconds) not in old and tokens > 0 and seconds > 0
        ]
        if not news:
            return
        self._compare(known, news)
        pace = self.pace(worker)
        for tokens, seconds in news:
            self._curve.observe(max(1, round(tokens)), seconds / pace)

    def _compare(self, known: _Worker, news: Sequence[tuple[float, float]]) -> None:
        """Moves a worker's pace by its newest points. The first worker of all has pace 1."""
        curve = self._curve.points()
        logs = [
            log2(seconds / expected_s)
            for tokens, seconds in news
            if curve and curve[0][0] / NEAR <= tokens <= curve[-1][0] * NEAR and (expected_s := interpolated(curve, tokens))
        ]
        if not logs:
            return
        log_pace = sum(logs) / len(logs)
        if known.log_pace is not None:
            log_pace = known.log_pace + SMOOTHING * (log_pace - known.log_pace)
        known.log_pace = log_pace
        if abs(log_pace * STEPS_PER_OCTAVE - known.steps) > LEFT_AT_STEPS:
            self._count(known.steps, -1)
            known.steps = max(-MAX_STEPS, min(MAX_STEPS, round(log_pace * STEPS_PER_OCTAVE)))
            self._count(known.steps, 1)

    def _count(self, steps: int, change: int) -> None:
        number = self._kinds.get(steps, 0) + change
        if number:
            self._kinds[steps] = number
        else:
            del self._kinds[steps]

    def gone(self, worker: str) -> None:
        if (known := self._workers.pop(worker, None)) is not None:
            self._count(known.steps, -1)

    def pace(self, worker: str) -> float:
        """Factor of the worker's times on the curve; 1 for one that has announced nothing."""
        known = self._workers.get(worker)
        return 1.0 if known is None else exp2(known.steps / STEPS_PER_OCTAVE)

    def mean_points(self) -> Points:
        """Curve of workers that, alike and as many, would do as much as all of these; empty without any."""
        if not self._workers:
            return ()
        curve = self._curve.points()
        mean_pace = len(self._workers) / sum(number * exp2(-steps / STEPS_PER_OCTAVE) for steps, number in self._kinds.items())
        if self._scaled[0] is not curve or self._scaled[1] != mean_pace:
            scaled = curve if mean_pace == 1 else tuple((tokens, seconds * mean_pace) for tokens, seconds in curve)
            self._scaled = curve, mean_pace, scaled
        return self._scaled[2]

    def validate(self, workers: Iterable[str]) -> None:
        """Expects to know exactly these workers."""
        assert self._workers.keys() == set(workers)
        assert self._kinds == Counter(known.steps for known in self._workers.values())

    def work_s(self, tokens: float) -> float | None:
        """Time of a prefill at pace 1; None while nothing has been announced."""
        return interpolated(self._curve.points(), tokens)
