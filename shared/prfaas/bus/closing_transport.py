"""Transport of nats-py whose end has a deadline."""

import asyncio
from urllib.parse import ParseResult

from nats.aio.transport import TcpTransport

CLOSE_S = 1.0
"""Time for bytes that were written, and for TLS' farewell, before the connection is cut."""


class ClosingTransport(TcpTransport):
    """Closes within `CLOSE_S`.

    nats-py waits for the end of a broken connection before it tries the next server. A server that is stopped, or behind a dead
    link, takes no more bytes, so that it would wait for good."""

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        if self._io_writer is not None:
            self._io_writer.transport.abort()  # of an attempt that got no answer, which nats-py leaves open
        await super().connect(uri, buffer_size, connect_timeout)

    async def wait_closed(self) -> None:
        if self._io_writer is None:
            return
        # A task of its own: all waits for this end share one future, which the first one that is cancelled would cancel.
        ending: asyncio.Task[None] = asyncio.ensure_future(super().wait_closed())  # type: ignore[no-untyped-call]
        # Who waits may be cancelled meanwhile, and asyncio logs an error of a task that nobody has asked for.
        ending.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        try:
            await asyncio.wait([ending], timeout=CLOSE_S)
        finally:
            if not ending.done():
                self._io_writer.transport.abort()
        await asyncio.wait([ending])
        ending.result()

    def __bool__(self) -> bool:
        # nats-py makes a transport of its own where this one is false, as the base class is before it has connected.
        return True
