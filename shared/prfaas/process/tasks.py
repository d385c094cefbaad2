"""Background tasks under supervision: one that fails brings the process down, so that no service runs on half dead."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Tasks:
    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self.failed: asyncio.Future[tuple[str, BaseException]] = asyncio.get_running_loop().create_future()
        """Name and error of the first task that failed."""

    def spawn(self, name: str, coro: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Runs until it returns, raises (the process exits with 1) or is cancelled (the caller's right)."""
        task = asyncio.get_running_loop().create_task(coro, name=name)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    def fail(self, name: str, error: BaseException) -> None:
        """Reports a failure outside of the loop, such as in an engine's thread (by `loop.call_soon_threadsafe`)."""
        if not self.failed.done():
            self.failed.set_result((name, error))

    async def cancel_all(self, timeout_s: float) -> list[str]:
        """Returns the names of tasks that still run after the deadline."""
        running = set(self._running)
        for task in running:
            task.cancel()
        if not running:
            return []
        _, left = await asyncio.wait(running, timeout=timeout_s)
        return sorted(task.get_name() for task in left)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(task.get_name(), error)
