"""Simulated time: callbacks in the order of their moments, and of their making where moments are equal."""

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import Any


class Clock:
    """Discrete events without threads, generators or event objects: a callback costs a push and a pop of a heap."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.stopped = False
        """True: a run ends after the callback that is running."""
        self._due: list[tuple[float, int, Callable[..., Any], tuple[Any, ...]]] = []
        self._order = count()

    def at(self, at_s: float, call: Callable[..., Any], *arguments: Any) -> None:
        """Calls at a moment, which must not be past."""
        heappush(self._due, (at_s, next(self._order), call, arguments))

    def after(self, delay_s: float, call: Callable[..., Any], *arguments: Any) -> None:
        heappush(self._due, (self.now_s + delay_s, next(self._order), call, arguments))

    def run(self, until_s: float = inf) -> None:
        """Runs all that is due up to a moment, or until it is stopped. Time stays at the last callback."""
        due = self._due
        while due and due[0][0] <= until_s and not self.stopped:
            self.now_s, _, call, arguments = heappop(due)
            call(*arguments)

    def run_until(self, at_s: float) -> None:
        """Runs all that is due up to a moment, and moves the time there."""
        self.run(at_s)
        self.now_s = max(self.now_s, at_s)
