"""The NATS client protocol as far as the bulk lane needs it, without a socket.

`WireParser` is fed through the two methods of asyncio.BufferedProtocol: the transport receives straight into the buffer that the
message is delivered in. Only what shares a read with its MSG line is copied once, out of the 64 KiB control buffer.
"""

from collections.abc import Callable

_CONTROL_BYTES = 64 << 10
_POOLED_FROM_BYTES = 16 << 10


class LaneError(Exception):
    """The server refused, or broke the protocol; the message says what and where."""


class DisconnectedError(LaneError):
    """There is no connection to the server now; the lane goes on trying."""


class BufferPool:
    """Receive buffers, kept for reuse: fresh ones cost a page fault per 4 KiB. Holds at most `max_bytes` of idle ones."""

    def __init__(self, max_bytes: int = 32 << 20) -> None:
        self._free: dict[int, list[bytearray]] = {}
        self.idle_bytes = 0
        """Kept for reuse."""
        self._max_bytes = max_bytes
        self.taken_bytes = 0
        """Bytes of buffers that are in use."""

    def take(self, size: int) -> bytearray:
        """Returns a buffer of at least `size` bytes, with old contents."""
        size_class = 1 << max(14, (size - 1).bit_length())
        free = self._free.get(size_class)
        self.taken_bytes += size_class
        if free:
            self.idle_bytes -= size_class
            return free.pop()
        return bytearray(size_class)

    def give(self, buffer: bytearray) -> None:
        self.taken_bytes -= len(buffer)
        if self.idle_bytes + len(buffer) <= self._max_bytes:
            self.idle_bytes += len(buffer)
            self._free.setdefault(len(buffer), []).append(buffer)


class Message:
    """One delivered message. `payload` stays valid until release(), after which its buffer belongs to the next message."""

    __slots__ = ("_buffer", "_pool", "headers", "payload", "reply", "sid", "subject")

    def __init__(
        self,
        sid: int,
        subject: str,
        reply: str,
        headers: bytes,
        payload: memoryview,
        pool: BufferPool | None = None,
        buffer: bytearray | None = None,
    ) -> None:
        self.sid = sid
        self.subject = subject
        self.reply = reply
        self.headers = headers
        """Raw block from `NATS/1.0` on; empty without headers."""
        self.payload = payload
        self._pool = pool
        self._buffer = buffer

    @property
    def status(self) -> int:
        """Status of a message that the server made itself, such as 503 (no responders) or 408 (pull expired); else 0."""
        code = self.headers[8:12].strip()
        return int(code) if code.isdigit() else 0

    def header(self, name: str) -> str | None:
        key = name.lower()
        for line in self.headers.decode("latin-1").split("\r\n")[1:]:
            found, colon, value = line.partition(":")
            if colon and found.lower() == key:
                return value.strip()
        return None

    def release(self) -> None:
        if self._buffer is not None and self._pool is not None:
            self.payload = memoryview(b"")
            self._pool.give(self._buffer)
            self._buffer = None


class WireParser:
    """Calls `on_message` for MSG and HMSG, `on_line(verb, rest)` for INFO, PING, PONG, +OK and -ERR.

    Raises LaneError on what no NATS server sends; nothing can be read after that."""

    def __init__(self, pool: BufferPool, on_message: Callable[[Message], None], on_line: Callable[[bytes, bytes], None]) -> None:
        self._pool = pool
        self._on_message = on_message
        self._on_line = on_line
        self._control = bytearray(_CONTROL_BYTES)
        self._control_view = memoryview(self._control)
        self._fill = 0
        self._head: tuple[int, str, str, int, int] = (0, "", "", 0, 0)
        """Head of the message that is being received: sid, subject, reply, header bytes, total bytes."""
        self._target: memoryview | None = None
        self._target_buffer: bytearray | None = None
        self._target_fill = 0

    def get_buffer(self, _size_hint: int) -> memoryview:
        if self._target is not None:
            return self._target[self._target_fill :]
        return self._control_view[self._fill :]

    def buffer_updated(self, size: int) -> None:
        if self._target is None:
            self._fill += size
            self._parse()
            return
        self._target_fill += size
        if self._target_fill == len(self._target):
            self._deliver_target()

    def close(self) -> None:
        """Gives back the buffer of a message that will never be complete."""
        if self._target_buffer is not None:
            self._pool.give(self._target_buffer)
        self._target = self._target_buffer = None

    def _parse(self) -> None:
        position = 0
        while True:
            end = self._control.find(b"\r\n", position, self._fill)
            if end < 0:
                break
            line = bytes(self._control_view[position:end])
            position = end + 2
            verb, _, rest = line.partition(b" ")
            if verb == b"MSG" or verb == b"HMSG":
                self._head = self._parse_head(verb, rest)
                total = self._head[4]
                available = self._fill - position
                self._start_target(total + 2)
                assert self._target is not None
                taken = min(available, total + 2)
                self._target[:taken] = self._control_view[position : position + taken]
                self._target_fill = taken
                position += taken
                if taken < total + 2:
                    break
                self._deliver_target()
            else:
                self._on_line(verb, rest)
        left = self._fill - position
        if left and position:
            self._control[:left] = self._control[position : self._fill]
        if left == len(self._control):
            raise LaneError(f"the server sent a control line of more than {len(self._control)} bytes")
        self._fill = left

    def _parse_head(self, verb: bytes, rest: bytes) -> tuple[int, str, str, int, int]:
        fields = rest.split()
        numbers = 2 if verb == b"HMSG" else 1
        try:
            if not 2 <= len(fields) - numbers <= 3:
                raise ValueError("wrong number of fields")
            total = int(fields[-1])
            header = int(fields[-2]) if numbers == 2 else 0
            if not 0 <= header <= total <= 64 << 20:
                raise ValueError("impossible sizes")
            reply = fields[2].decode() if len(fields) - numbers == 3 else ""
            return int(fields[1]), fields[0].decode(), reply, header, total
        except ValueError as error:
            raise LaneError(f"the server sent a malformed line {verb!r} {rest[:200]!r}: {error}") from error

    def _start_target(self, size: int) -> None:
        if size >= _POOLED_FROM_BYTES:
            self._target_buffer = self._pool.take(size)
            self._target = memoryview(self._target_buffer)[:size]
        else:
            self._target = memoryview(bytearray(size))

    def _deliver_target(self) -> None:
        target, buffer = self._target, self._target_buffer
        assert target is not None
        self._target = self._target_buffer = None
        sid, subject, reply, header, total = self._head
        if bytes(target[total:]) != b"\r\n":
            raise LaneError(f"a message on {subject} does not end where its header says: {total} bytes")
        pool = self._pool if buffer is not None else None
        self._on_message(Message(sid, subject, reply, bytes(target[:header]), target[header:total], pool, buffer))


def header_block(headers: dict[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"NATS/1.0\r\n{lines}\r\n".encode()
