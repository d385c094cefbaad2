"""The proxy: connections in, both directions through a shared lane each, and the faults."""

import asyncio
import logging
import socket
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

import msgspec

from prfaas.site.link_shape import LinkShape
from prfaas.wan.connection import Direction, End, Pipe

_log = logging.getLogger(__name__)
_RECEIVE_BUFFER_BYTES = 512 << 10
"""Bytes of a socket's buffer: few, or the kernel would queue up to 6 MB in front of the link's own queue."""
_CONNECT_DEADLINE_S = 10.0


class LinkState(StrEnum):
    UP = "up"
    CUT = "cut"
    """Connections are reset, new ones refused."""
    HALF_OPEN = "half-open"
    """Connections are accepted and held; every byte is swallowed."""


class WanProxy:
    """Link to the TCP server at `connect`: clients of `listen` reach it through the link's shape and faults."""

    def __init__(
        self, connect: tuple[str, int], shape: LinkShape, listen: tuple[str, int] = ("127.0.0.1", 0), seed: int = 0
    ) -> None:
        self.connect_address = connect
        self.listen_address = listen
        self.state = LinkState.UP
        self.shape = shape
        self._seed = seed
        self._server: asyncio.Server | None = None
        self._ends: set[End] = set()
        self._dials: set[asyncio.Task[None]] = set()
        self._forward: Direction
        self._backward: Direction
        self._stall: asyncio.TimerHandle | None = None

    @property
    def port(self) -> int:
        return self.listen_address[1]

    @property
    def connections(self) -> int:
        """Sockets on both sides of the link."""
        return len(self._ends)

    @property
    def stalled(self) -> bool:
        return self._forward.lane.halted

    @property
    def delivered_bytes(self) -> tuple[int, int]:
        """Lanes of the two directions: from the clients to the server, and back."""
        return self._forward.delivered_bytes, self._backward.delivered_bytes

    async def start(self) -> Self:
        self._forward = Direction(self.shape, self._seed)
        self._backward = Direction(self.shape, self._seed + 1)
        await self._listen()
        return self

    async def _listen(self) -> None:
        host, port = self.listen_address
        listener = socket.create_server((host, port))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        self.listen_address = (host, listener.getsockname()[1])
        self._server = await asyncio.get_running_loop().create_server(self._accept, sock=listener)

    def _accept(self) -> End:
        forward, backward = Pipe(self._forward), Pipe(self._backward)
        near = End(backward, forward, self._ends)
        if self.state is LinkState.HALF_OPEN:
            forward.start_swallowing()
            backward.start_swallowing()
        else:
            task = asyncio.get_running_loop().create_task(self._dial(near, forward, backward))
            self._dials.add(task)
            task.add_done_callback(self._dials.discard)
        return near

    async def _dial(self, near: End, forward: Pipe, backward: Pipe) -> None:
        def far_end() -> End:
            return End(forward, backward, self._ends)

        loop = asyncio.get_running_loop()
        outgoing = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            outgoing.setblocking(False)
            outgoing.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
            async with asyncio.timeout(_CONNECT_DEADLINE_S):
                await loop.sock_connect(outgoing, self.connect_address)
                await loop.create_connection(far_end, sock=outgoing)
        except (OSError, TimeoutError) as error:
            _log.warning("the link cannot reach %s:%d: %r", *self.connect_address, error)
            outgoing.close()
            near.reset()
            return
        except asyncio.CancelledError:
            outgoing.close()
            raise

    def reshape(self, **changes: Any) -> None:
        """Replaces fields of the shape. What is queued already leaves at the old rate."""
        self.shape = msgspec.structs.replace(self.shape, **changes)
        self._forward.lane.shape = self._backward.lane.shape = self.shape

    def stall(self, duration_s: float | None = None) -> None:
        """Halts the link for a while (None: until `restore`). Nothing is lost and connections stay, so TCP outlives it."""
        self._forward.halt()
        self._backward.halt()
        if self._stall is not None:
            self._stall.cancel()
        self._stall = None if duration_s is None else asyncio.get_running_loop().call_later(duration_s, self._end_stall)

    def _end_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        self._forward.go_on()
        self._backward.go_on()

    async def cut(self) -> None:
        """Resets every connection and refuses new ones."""
        self.state = LinkState.CUT
        await self._stop_listening()
        await self._reset_all()

    async def half_open(self) -> None:
        """Keeps connections, accepts new ones, delivers nothing: only deadlines of the ends can notice."""
        self.state = LinkState.HALF_OPEN
        self._drop_everything()
        for end in self._ends:
            end.outgoing.start_swallowing()
            end.incoming.start_swallowing()
        if self._server is None:
            await self._listen()

    async def restore(self) -> None:
        """Ends every fault. Connections that lost bytes while half-open are reset: their streams have holes."""
        if self.state is LinkState.HALF_OPEN:
            await self._reset_all()
        self.state = LinkState.UP
        self._end_stall()
        if self._server is None:
            await self._listen()

    async def _reset_all(self) -> None:
        for task in self._dials:
            task.cancel()
        await asyncio.gather(*self._dials, return_exceptions=True)
        ends = list(self._ends)
        for end in ends:
            end.reset()
        await asyncio.gather(*(end.lost.wait() for end in ends))
        self._drop_everything()

    def _drop_everything(self) -> None:
        self._forward.drop_all()
        self._backward.drop_all()

    async def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def close(self) -> None:
        await self.cut()
        if self._stall is not None:
            self._stall.cancel()
        self._forward.close()
        self._backward.close()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()
