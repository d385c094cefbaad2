"""The client processes of a run, seen from the one that started them."""

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import msgspec

from prfaas.replay.sender_process import MAX_LINE_BYTES, Go, Progress, Ready, Stop, Task, Tells, Told

READY_S = 120.0
"""Longest time for a process to read its part of the workload."""
START_IN_S = 0.3
"""Time from the order to begin until the run's start."""
CUT_S = 10.0
"""Time for a process to end its requests when it is told to cut them."""


class SenderError(Exception):
    """A client process that ended before its work was done; the message is a sentence."""


class Senders:
    """Starts one process per task and stops them all on exit. `on_progress`: (part, what it tells)."""

    def __init__(self, tasks: Sequence[Task], on_progress: Callable[[int, Progress], None]) -> None:
        self._tasks = tasks
        self._on_progress = on_progress
        self._processes: list[asyncio.subprocess.Process] = []

    async def __aenter__(self) -> Self:
        """Returns when every process is ready. Raises SenderError."""
        try:
            for task in self._tasks:
                self._processes.append(
                    await asyncio.create_subprocess_exec(
                        sys.executable,
                        "-m",
                        "prfaas.replay.sender_process",
                        stdin=asyncio.subprocess.PIPE,
                        stdout=asyncio.subprocess.PIPE,
                        limit=MAX_LINE_BYTES,
                    )
                )
                await self._order(self._processes[-1], task)
            async with asyncio.timeout(READY_S):
                for process in self._processes:
                    if not isinstance(await self._heard(process), Ready):
                        raise SenderError("a client process did not get ready.")
        except TimeoutError:
            await self._kill()
            raise SenderError(f"the client processes were not ready within {READY_S:g} s.") from None
        except OSError as error:
            await self._kill()
            raise SenderError(f"a client process cannot be started: {error.strerror or error}.") from error
        except BaseException:
            await self._kill()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        try:
            async with asyncio.timeout(CUT_S):
                for process in self._processes:
                    await process.wait()
        except TimeoutError:
            await self._kill()

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    async def start(self) -> float:
        """Returns the run's start, a moment of time.monotonic() that is still to come."""
        start_at = time.monotonic() + START_IN_S
        for process in self._processes:
            await self._order(process, Go(start_at))
        return start_at

    async def run(self) -> None:
        """Returns when all processes have said that they are done. Raises SenderError."""
        await asyncio.gather(*(self._listen(part, process) for part, process in enumerate(self._processes)))

    async def stop(self, *, cut: bool) -> None:
        for process in self._processes:
            with contextlib.suppress(SenderError):
                await self._order(process, Stop(cut))

    async def _listen(self, part: int, process: asyncio.subprocess.Process) -> None:
        while True:
            told = await self._heard(process)
            if not isinstance(told, Progress):
                raise SenderError(f"client process {part} ended before its work was done.")
            self._on_progress(part, told)
            if told.over:
                return

    async def _heard(self, process: asyncio.subprocess.Process) -> Tells | None:
        assert process.stdout is not None
        line = await process.stdout.readline()
        return msgspec.json.decode(line, type=Tells) if line.endswith(b"\n") else None

    async def _order(self, process: asyncio.subprocess.Process, order: Told) -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(msgspec.json.encode(order) + b"\n")
            await process.stdin.drain()
        except ConnectionError as error:
            raise SenderError("a client process ended before its work was done.") from error

    async def _kill(self) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.kill()
                await process.wait()
