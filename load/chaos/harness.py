"""The test harness that services announce their steps to; what stands still there waits for its answer."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from prfaas.telemetry.fault_points import TEST_SOCKET_VARIABLE, Announcement, Order

Answer = Callable[[Announcement], Awaitable[Order]]
GO_ON = Order()


async def go_on(_announcement: Announcement) -> Order:
    return GO_ON


class FaultHarness:
    """Listens on `socket_path`. `answer` is called for each step that any process reaches, and may be exchanged at any time."""

    def __init__(self, socket_path: Path) -> None:
        self.socket_path = socket_path
        self.answer: Answer = go_on
        self.clock_shifts: dict[int, float] = {}
        """Clock shifts to order at the next step of a process, by pid."""
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def environ(self) -> dict[str, str]:
        """Variables with which services announce their steps here."""
        return {TEST_SOCKET_VARIABLE: str(self.socket_path)}

    async def start(self) -> Self:
        self._server = await asyncio.start_unix_server(self._accept, self.socket_path)
        return self

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            # A process that is killed at its step closes the connection in the middle of a question.
            with contextlib.suppress(ConnectionError):
                while line := await reader.readline():
                    announcement = msgspec.json.decode(line, type=Announcement)
                    order = await self.answer(announcement)
                    if (shift_s := self.clock_shifts.pop(announcement.pid, None)) is not None and order is GO_ON:
                        order = Order(clock_shift_s=shift_s)
                    writer.write(msgspec.json.encode(order) + b"\n")
                    await writer.drain()
        finally:
            self._connections.discard(task)
            writer.close()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()
