"""Simulated time: callbacks in the order of their moments, and of their making where moments are equal."""

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any


class Clock:
    """Discrete events without threads, generators or event objects: a callback costs a push and a pop of a heap."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._due: list[tuple[float, int, Callable[..., Any], tuple[Any, ...]]] = []
        self._order = count()

    def at(self, at_s: float, call: Callable[..., Any], *arguments: Any) -> None:
        """Calls at a moment, which must not be past."""
        heapq.heappush(self._due, (at_s, next(self._order), call, arguments))

    def after(self, delay_s: float, call: Callable[..., Any], *arguments: Any) -> None:
        heapq.heappush(self._due, (self.now_s + delay_s, next(self._order), call, arguments))

    def run(self, over: Callable[[], bool]) -> None:
        """Runs until `over`, or until nothing is due any more."""
        due = self._due
        while due and not over():
            self.now_s, _, call, arguments = heapq.heappop(due)
            call(*arguments)

    def run_until(self, at_s: float) -> None:
        """Runs all that is due up to a moment."""
        self.run(lambda: not self._due or self._due[0][0] > at_s)
        self.now_s = max(self.now_s, at_s)
