"""One TCP connection of the bulk lane, and the greeting that opens it."""

import asyncio
import base64
import json
import time
from collections.abc import Mapping
from typing import Any, Protocol, cast

import nkeys

from prfaas.bus.bulk.wire import BufferPool, LaneError, Message, WireParser

Buffer = bytes | memoryview

_WRITE_HIGH_BYTES = 512 << 10
_WRITE_LOW_BYTES = 128 << 10


class LaneOwner(Protocol):
    """Hears what comes over a connection."""

    pool: BufferPool

    def on_message(self, message: Message) -> None: ...

    def on_info(self, info: dict[str, Any]) -> None: ...

    def on_writable(self) -> None: ...

    def on_error(self, text: str) -> None: ...


def hello(seed: str | None, name: str, info: Mapping[str, Any], subscriptions: Mapping[int, str]) -> bytes:
    """Returns the client's first lines: who it is, which subjects it hears by subscription id, and a PING.

    `info`: what the server has said; its nonce is signed with the nkey `seed`, if there is one."""
    options: dict[str, Any] = {
        "verbose": False,
        "pedantic": False,
        "lang": "python",
        "version": "0",
        "protocol": 1,
        "name": name,
        "headers": True,
        "no_responders": True,
        "echo": True,
    }
    if seed is not None:
        pair = nkeys.from_seed(bytearray(seed.encode()))
        options["nkey"] = pair.public_key.decode()
        options["sig"] = base64.urlsafe_b64encode(pair.sign(info.get("nonce", "").encode())).decode().rstrip("=")
    lines = "".join(f"SUB {subject} {sid}\r\n" for sid, subject in subscriptions.items())
    return f"CONNECT {json.dumps(options)}\r\n{lines}PING\r\n".encode()


class LaneConnection(asyncio.BufferedProtocol):
    """Life of one TCP connection."""

    def __init__(self, owner: LaneOwner) -> None:
        self._owner = owner
        loop = asyncio.get_running_loop()
        self.first_info: asyncio.Future[dict[str, Any]] = loop.create_future()
        self.pong: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        self.writable = True
        self.received_at = 0.0
        self.error = ""
        self._transport: asyncio.Transport | None = None
        self._parser = WireParser(owner.pool, owner.on_message, self._on_line)

    def write(self, parts: list[Buffer]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(parts)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._transport.set_write_buffer_limits(high=_WRITE_HIGH_BYTES, low=_WRITE_LOW_BYTES)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._parser.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        self.received_at = time.monotonic()
        try:
            self._parser.buffer_updated(nbytes)
        except LaneError as error:
            self.error = str(error)
            self.abort()
        except Exception as error:  # no message: what the server itself sends, such as an INFO that is no JSON
            self.error = f"the server broke the protocol: {error!r}"
            self.abort()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self._owner.on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.writable = False
        self._parser.close()
        error = LaneError(self.error or f"the server closed the connection: {exc or 'end of stream'}")
        for future in (self.first_info, self.pong):
            if not future.done():
                future.set_exception(error)
                future.exception()
        if not self.lost.done():
            self.lost.set_result(None)

    def _on_line(self, verb: bytes, rest: bytes) -> None:
        match verb.upper():
            case b"PING":
                self.write([b"PONG\r\n"])
            case b"PONG":
                if not self.pong.done():
                    self.pong.set_result(None)
            case b"INFO":
                info = json.loads(rest)
                if self.first_info.done():
                    self._owner.on_info(info)
                else:
                    self.first_info.set_result(info)
            case b"-ERR":
                text = rest.decode(errors="replace").strip(" '")
                self.error = f"the server said: {text}"
                self._owner.on_error(text)
            case b"+OK":
                pass
            case _:
                raise LaneError(f"the server sent an unknown line: {verb[:100]!r} {rest[:100]!r}")
