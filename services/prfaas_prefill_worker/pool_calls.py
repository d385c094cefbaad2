"""Calls to the pool of cached prefixes, made on the engine's thread.

It belongs to that thread. While a prefill runs, others are served between two of its chunks.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

Result = TypeVar("Result")


class PoolCalls:
    def __init__(self, thread: Executor) -> None:
        self._thread = thread
        self._waiting: deque[tuple[Callable[[], Any], Future[Any]]] = deque()

    def submit(self, call: Callable[[], Result]) -> "Future[Result]":
        """Has the engine's thread make a short call. Raises RuntimeError once that has ended."""
        future: Future[Result] = Future()
        self._waiting.append((call, future))
        self._thread.submit(self.run_waiting)  # for an idle engine; a prefill comes by itself
        return future

    def run_waiting(self) -> None:
        """Makes the calls that wait. Belongs to the engine's thread; while it computes, to be called between two chunks."""
        while self._waiting:
            call, future = self._waiting.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = call()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
