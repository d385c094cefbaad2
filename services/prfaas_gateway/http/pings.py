"""A stream of events that is never silent for long, for clients and proxies that take silence for a lost connection."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from prfaas_gateway.http.io import ClientGoneError, Reply

PING_AFTER_S: Final = 10.0
"""Longest silence."""


class PingedReply:
    """A reply whose stream sends `ping` after a silence; an empty one is never sent."""

    def __init__(self, reply: Reply, ping: bytes) -> None:
        self._reply = reply
        self._ping = ping
        self._clock = asyncio.get_running_loop().time
        self._written_at = self._clock()
        self._writing = asyncio.Lock()
        self._pinging: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self._ping:
            self._pinging = asyncio.create_task(self._keep_pinging())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._pinging is not None:
            self._pinging.cancel()
            await asyncio.gather(self._pinging, return_exceptions=True)

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Does as Reply.write."""
        if not self._ping:
            await self._reply.write(data, last=last)
            return
        async with self._writing:
            await self._reply.write(data, last=last)
            self._written_at = self._clock()

    async def _keep_pinging(self) -> None:
        # Of a client that reads nothing the answer's own next event tells.
        with suppress(ClientGoneError):
            while not self._reply.complete:
                silent_s = self._clock() - self._written_at
                if silent_s < PING_AFTER_S:
                    await asyncio.sleep(PING_AFTER_S - silent_s)
                elif self._reply.status is None or self._writing.locked():
                    await asyncio.sleep(PING_AFTER_S)
                else:
                    await self.write(self._ping)
