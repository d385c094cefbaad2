"""Traffic of a link: one direction's bytes, and the two ends of each connection."""

import asyncio
import contextlib
import heapq
import itertools
import socket
import struct
import time
from collections import deque
from typing import Literal, cast

from prfaas.site.link_shape import LinkShape
from prfaas.wan.shaping import Lane, Stream
from prfaas.wan.timer import Timer

_SLAB_BYTES = 1 << 20
_PIPE_LIMIT_BYTES = 64 << 20
"""Limit of bytes on the way in one direction of one connection, for links that bound them by neither rate nor delay."""
_NOW_S = 20e-6

Ending = Literal["eof", "close", "reset"]


class Direction:
    """Shell of one lane: the bytes on the way, and the connections that wait for room."""

    def __init__(self, shape: LinkShape, seed: int) -> None:
        self.lane = Lane(shape, seed)
        self.delivered_bytes = 0
        self._on_the_way: list[tuple[float, int, Pipe, memoryview | Ending]] = []
        self._waiting: deque[Pipe] = deque()
        self._order = itertools.count()
        self._timer = Timer(self._run)

    def send(self, pipe: "Pipe", piece: memoryview | Ending) -> None:
        now_s = self.lane.link_time_s(time.monotonic())
        arrival_s = self.lane.admit(now_s, len(piece) if isinstance(piece, memoryview) else 0, pipe.stream)
        if arrival_s <= now_s and not self._on_the_way and not self.lane.halted:
            pipe.deliver(piece)
            return
        heapq.heappush(self._on_the_way, (arrival_s, next(self._order), pipe, piece))
        if self.lane.halted or self.lane.is_full(now_s):
            self._waiting.append(pipe)
            pipe.pause("queue")
        self._arm()

    def _run(self) -> None:
        now_s = self.lane.link_time_s(time.monotonic()) + _NOW_S
        while self._on_the_way and self._on_the_way[0][0] <= now_s and not self.lane.halted:
            _, _, pipe, piece = heapq.heappop(self._on_the_way)
            pipe.deliver(piece)
        if now_s >= self.lane.room_at_s() and not self.lane.halted:
            while self._waiting:
                self._waiting.popleft().unpause("queue")
        self._arm()

    def _arm(self) -> None:
        if self.lane.halted:
            self._timer.arm(None)
            return
        moments_s = [self._on_the_way[0][0]] if self._on_the_way else []
        if self._waiting:
            moments_s.append(self.lane.room_at_s())
        self._timer.arm(self.lane.clock_time_s(min(moments_s)) if moments_s else None)

    def halt(self) -> None:
        self.lane.halt(time.monotonic())
        self._arm()

    def go_on(self) -> None:
        self.lane.go_on(time.monotonic())
        self._run()

    def drop_all(self) -> None:
        self._on_the_way.clear()
        while self._waiting:
            self._waiting.popleft().unpause("queue")
        self._arm()

    def close(self) -> None:
        self._timer.close()


class Pipe:
    """One direction of one connection: from what one end reads to what the other end writes."""

    def __init__(self, direction: Direction) -> None:
        self.direction = direction
        self.stream = Stream()
        self.source: End | None = None
        self.sink: End | None = None
        self._swallow = False
        self._in_pipe_bytes = 0
        self._held: deque[memoryview | Ending] = deque()
        self._sink_ready = False
        self._paused_for: set[str] = set()

    def send(self, piece: memoryview | Ending) -> None:
        if self._swallow:
            return
        if isinstance(piece, memoryview):
            self._in_pipe_bytes += len(piece)
        if self._in_pipe_bytes > _PIPE_LIMIT_BYTES:
            self.pause("pipe")
        self.direction.send(self, piece)

    def deliver(self, piece: memoryview | Ending) -> None:
        if self._sink_ready and not self._held:
            self._write(piece)
        else:
            self._held.append(piece)
            self.pause("sink")

    def _write(self, piece: memoryview | Ending) -> None:
        if isinstance(piece, memoryview):
            self._in_pipe_bytes -= len(piece)
            self.direction.delivered_bytes += len(piece)
            if self._in_pipe_bytes <= _PIPE_LIMIT_BYTES // 2:
                self.unpause("pipe")
        if self.sink is not None:
            self.sink.write(piece)

    def start_swallowing(self) -> None:
        self._swallow = True
        self._held.clear()
        for reason in ("queue", "pipe", "sink"):
            self.unpause(reason)

    def set_sink_ready(self, ready: bool) -> None:
        self._sink_ready = ready
        while self._held and self._sink_ready:
            self._write(self._held.popleft())
        if ready:
            self.unpause("sink")
        elif not self._swallow:
            self.pause("sink")

    def pause(self, reason: str) -> None:
        self._paused_for.add(reason)
        if self.source is not None:
            self.source.set_reading(False)

    def unpause(self, reason: str) -> None:
        self._paused_for.discard(reason)
        if not self._paused_for and self.source is not None:
            self.source.set_reading(True)


class End(asyncio.BufferedProtocol):
    """One of a connection's two sockets. Reads into slabs whose views travel on uncopied; a slab is never written twice."""

    def __init__(self, incoming: Pipe, outgoing: Pipe, ends: set["End"]) -> None:
        self.incoming, self.outgoing = incoming, outgoing
        incoming.sink = outgoing.source = self
        self.transport: asyncio.Transport | None = None
        self._ends = ends
        self._slab = bytearray()
        self._used_bytes = 0
        self._reading = True
        self._said_end = False
        self._eof_read = self._eof_written = False
        self.lost = asyncio.Event()
        ends.add(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        self.transport = transport
        if self.lost.is_set():  # reset between accept and here
            transport.abort()
            return
        transport.set_write_buffer_limits(high=_SLAB_BYTES)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.incoming.set_sink_ready(True)

    def set_reading(self, reading: bool) -> None:
        if reading == self._reading:
            return
        self._reading = reading
        if self.transport is not None and not self.transport.is_closing():
            if reading:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        quantum_bytes = self.outgoing.direction.lane.shape.quantum_bytes
        if len(self._slab) - self._used_bytes < quantum_bytes:
            self._slab, self._used_bytes = bytearray(_SLAB_BYTES), 0
        return memoryview(self._slab)[self._used_bytes : self._used_bytes + quantum_bytes]

    def buffer_updated(self, nbytes: int) -> None:
        piece = memoryview(self._slab)[self._used_bytes : self._used_bytes + nbytes]
        self._used_bytes += nbytes
        self.outgoing.send(piece)
        if not self._reading and self.transport is not None:
            self.transport.pause_reading()  # again: uvloop forgets a pause that came before its first read

    def eof_received(self) -> bool:
        self._eof_read = True
        self.outgoing.send("eof")
        return not self._eof_written

    def pause_writing(self) -> None:
        self.incoming.set_sink_ready(False)

    def resume_writing(self) -> None:
        self.incoming.set_sink_ready(True)

    def write(self, piece: memoryview | Ending) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        if isinstance(piece, memoryview):
            self.transport.write(piece)
        elif piece == "eof":
            self._eof_written = True
            self.transport.write_eof()
            if self._eof_read:
                self.transport.close()
        elif piece == "close":
            self.transport.close()
        else:
            self.reset()

    def reset(self) -> None:
        self._said_end = True
        if self.transport is None:
            self._ends.discard(self)
            self.lost.set()
        else:
            with contextlib.suppress(OSError):
                linger = struct.pack("ii", 1, 0)  # closing sends RST
                self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set()
        self._ends.discard(self)
        self.incoming.sink = self.outgoing.source = None
        self.incoming.set_sink_ready(True)  # what still comes is dropped by Pipe._write
        if not self._said_end:
            self._said_end = True
            self.outgoing.send("close" if error is None else "reset")
