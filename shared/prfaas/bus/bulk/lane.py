"""One lean connection to the site's own nats-server, account BULK. It reconnects by itself until it is closed."""

import asyncio
import contextlib
import itertools
import random
import secrets
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

from prfaas.bus.bulk.connection import Buffer, LaneConnection, hello
from prfaas.bus.bulk.interest import Failed, Handler, Interest
from prfaas.bus.bulk.wire import BufferPool, DisconnectedError, LaneError, Message, header_block
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.bus.reply_inbox import subject_token
from prfaas.bus.seed_file import SeedFile
from prfaas.contracts import subjects
from prfaas.telemetry.logs import get_logger

_log = get_logger(__name__)
_CONNECT_TIMEOUT_S = 5.0
_RECONNECT_FIRST_S = 0.05
_RECONNECT_MAX_S = 1.0
_PING_INTERVAL_S = 2.0
_SILENT_AFTER_S = 6.0
"""Silence after a PING that shows a half-open connection, which is dropped."""
_REPLY_TOKEN = 5
"""Place of the inbox's token in a reply subject: reply.<asking site>.<answering site>.<name>.<connection>.<token>."""


class LaneListener(Protocol):
    """Hears of everything that is not a message. Called on the event loop; must not block or raise."""

    def connected(self) -> None: ...

    def disconnected(self) -> None: ...

    def writable(self) -> None: ...

    def server_error(self, text: str) -> None:
        """An -ERR that leaves the connection open: a permission, a subject."""
        ...


class BulkLane:
    """Publishes gathered buffers and delivers messages in pooled ones. All methods belong to the event loop's thread."""

    def __init__(self, endpoint: NatsEndpoint, *, name: str) -> None:
        self.endpoint = endpoint
        self._name = name
        if problem := endpoint.problem():
            raise LaneError(f"{endpoint.url!r} {problem}: expected nats://host:port or tls://host:port")
        addresses = list(map(urlsplit, endpoint.urls))
        # Clients spread over a cluster; the next server is tried when one does not answer.
        self._addresses = itertools.cycle(random.sample(addresses, len(addresses)))
        self.pool = BufferPool()
        self._seed = SeedFile(endpoint.nkey_seed_file)
        self.info: dict[str, Any] = {}
        self._reply_name = f"{subject_token(name)}.{secrets.token_hex(8)}"
        self.inbox = subjects.replies(endpoint.site, endpoint.site, self._reply_name)
        """Prefix of reply subjects for answers of the own site."""
        self._wire: LaneConnection | None = None
        self._up = asyncio.Event()
        self._listeners: list[LaneListener] = []
        self._subscriptions: dict[int, Interest] = {}
        self._inboxes: dict[str, Interest] = {}
        self._requests: set[asyncio.Future[Message]] = set()
        self._next_id = 0
        self._runner: asyncio.Task[None] | None = None
        self._closed = False
        self.reconnects = 0
        self.subscribe(f"{subjects.replies(endpoint.site, '*', self._reply_name)}.>", self._route_inbox)

    @classmethod
    async def connect(cls, endpoint: NatsEndpoint, *, name: str, timeout_s: float) -> Self:
        """Raises LaneError when the server refuses us, or cannot be reached within `timeout_s`."""
        lane = cls(endpoint, name=name)
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lane._runner = asyncio.create_task(lane._run(ready), name=f"bulk lane {name}")
        try:
            async with asyncio.timeout(timeout_s):
                await ready
        except TimeoutError as error:
            await lane.close()
            raise LaneError(f"no NATS server answered at {endpoint.url} within {timeout_s} s") from error
        except BaseException:
            await lane.close()
            raise
        return lane

    async def close(self) -> None:
        self._closed = True
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
            self._runner = None

    @property
    def is_connected(self) -> bool:
        return self._wire is not None

    async def until_connected(self, timeout_s: float) -> None:
        """Waits for the connection, as while a server starts again. Raises DisconnectedError."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._up.wait()
        except TimeoutError:
            raise DisconnectedError(f"the bulk connection to {self.endpoint.url} is down") from None

    @property
    def is_writable(self) -> bool:
        """True while the transport takes more; what is written anyway is queued in memory."""
        return self._wire is not None and self._wire.writable

    @property
    def max_payload(self) -> int:
        return int(self.info.get("max_payload", 1 << 20))

    def add_listener(self, listener: LaneListener) -> None:
        self._listeners.append(listener)

    def remove_listener(self, listener: LaneListener) -> None:
        with contextlib.suppress(ValueError):
            self._listeners.remove(listener)

    def subscribe(self, subject: str, handler: Handler, failed: Failed | None = None) -> int:
        """Subscribes until `unsubscribe`, also after reconnects. The handler must release the message.

        A handler that raises ends its own subscription and nothing else; `failed` is told."""
        self._next_id += 1
        sid = self._next_id
        self._subscriptions[sid] = Interest(subject, handler, failed)
        if self._wire is not None:
            self._wire.write([f"SUB {subject} {sid}\r\n".encode()])
        return sid

    def unsubscribe(self, sid: int) -> None:
        if self._subscriptions.pop(sid, None) is not None and self._wire is not None:
            self._wire.write([f"UNSUB {sid}\r\n".encode()])

    def open_inbox(self, handler: Handler, answering_site: str, failed: Failed | None = None) -> str:
        """Returns a prefix for reply subjects of one site's answers, which any tokens may follow. `failed` is as in `subscribe`.

        Costs no SUB: the lane's one wildcard covers it, so interest has crossed leaf connections long before the first reply."""
        self._next_id += 1
        token = str(self._next_id)
        prefix = f"{subjects.replies(self.endpoint.site, answering_site, self._reply_name)}.{token}"
        self._inboxes[token] = Interest(prefix, handler, failed)
        return prefix

    def close_inbox(self, prefix: str) -> None:
        self._inboxes.pop(prefix.rpartition(".")[2], None)

    def publish(self, subject: str, parts: Sequence[Buffer], size: int, *, reply: str = "", headers: bytes = b"") -> None:
        """Gathers `parts` (`size` bytes in all) without joining them; they must not change until written.

        Raises DisconnectedError; LaneError when the server would cut the connection over the size."""
        if self._wire is None:
            raise DisconnectedError(f"the bulk connection to {self.endpoint.url} is down")
        total = size + len(headers)
        if total > self.max_payload:
            raise LaneError(f"a message of {total} bytes to {subject} exceeds the server's max_payload of {self.max_payload}")
        if headers:
            line = f"HPUB {subject} {reply} {len(headers)} {total}\r\n".encode() + headers
        else:
            line = f"PUB {subject} {reply} {total}\r\n".encode()
        self._wire.write([line, *parts, b"\r\n"])

    async def request(
        self, subject: str, payload: bytes = b"", *, timeout_s: float, headers: dict[str, str] | None = None
    ) -> Message:
        """Returns one reply, with a payload that needs no release. No responders make one with status 503.

        Raises DisconnectedError, TimeoutError."""
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

        def on_reply(message: Message) -> None:
            copy = Message(message.sid, message.subject, message.reply, message.headers, memoryview(bytes(message.payload)))
            message.release()
            if not answer.done():
                answer.set_result(copy)

        inbox = self.open_inbox(on_reply, subjects.answering_site(subject))
        self._requests.add(answer)
        try:
            block = header_block(headers) if headers else b""
            self.publish(subject, [payload], len(payload), reply=inbox, headers=block)
            async with asyncio.timeout(timeout_s):
                return await answer
        finally:
            self._requests.discard(answer)
            self.close_inbox(inbox)

    def _route_inbox(self, message: Message) -> None:
        token = message.subject.split(".", _REPLY_TOKEN + 1)[_REPLY_TOKEN]
        interest = self._inboxes.get(token)
        if interest is None:
            message.release()
            return
        if not interest.deliver(message):
            self._inboxes.pop(token, None)

    def on_message(self, message: Message) -> None:
        interest = self._subscriptions.get(message.sid)
        if interest is None:
            message.release()
        elif not interest.deliver(message):
            self.unsubscribe(message.sid)

    async def _run(self, ready: asyncio.Future[None]) -> None:
        pause_s = _RECONNECT_FIRST_S
        while not self._closed:
            try:
                wire = await self._dial()
            except (OSError, TimeoutError, LaneError) as error:
                if isinstance(error, LaneError) and not ready.done():
                    ready.set_exception(error)
                    return
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _RECONNECT_MAX_S)
                continue
            try:
                pause_s = _RECONNECT_FIRST_S
                self._wire = wire
                self._up.set()
                if ready.done():
                    self.reconnects += 1
                else:
                    ready.set_result(None)
                self._tell("connected", lambda listener: listener.connected())
                await self._watch(wire)
            finally:
                self._wire = None
                self._up.clear()
                wire.abort()
                for answer in self._requests:
                    if not answer.done():
                        answer.set_exception(DisconnectedError(f"the connection to {self.endpoint.url} broke: {wire.error}"))
                self._tell("disconnected", lambda listener: listener.disconnected())

    async def _dial(self) -> LaneConnection:
        loop = asyncio.get_running_loop()
        address, context = next(self._addresses), None
        if address.scheme == "tls":
            # TLS before the first byte: a server that says INFO in clear text could talk us down to plain text.
            context = ssl.create_default_context(cafile=self.endpoint.tls_ca_file)
        host, port = address.hostname or "", address.port or 4222
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            _, wire = await loop.create_connection(lambda: LaneConnection(self), host, port, ssl=context)
            try:
                self.info = await wire.first_info
                subscriptions = {sid: interest.subject for sid, interest in self._subscriptions.items()}
                wire.write([hello(self._seed.take(), self._name, self.info, subscriptions)])
                await wire.pong
            except BaseException:
                wire.abort()
                raise
        return wire

    async def _watch(self, wire: LaneConnection) -> None:
        """Returns when the connection is gone or has gone silent, or the key has been replaced: the next one has the new key."""
        while not self._seed.changed():
            pinged = time.monotonic()
            wire.write([b"PING\r\n"])
            while time.monotonic() - pinged < _SILENT_AFTER_S:
                done, _ = await asyncio.wait({wire.lost}, timeout=_PING_INTERVAL_S)
                if done:
                    return
                if wire.received_at > pinged:
                    break
            else:
                return

    def _tell(self, what: str, call: Callable[[LaneListener], None]) -> None:
        """Calls every listener. One that raises must not end the connection, nor keep the others from hearing."""
        for listener in list(self._listeners):
            try:
                call(listener)
            except Exception as error:
                _log.error("bulk_listener_failed", told=what, listener=type(listener).__name__, exc_info=error)

    def on_info(self, info: dict[str, Any]) -> None:
        self.info = info

    def on_writable(self) -> None:
        self._tell("writable", lambda listener: listener.writable())

    def on_error(self, text: str) -> None:
        self._tell("server_error", lambda listener: listener.server_error(text))
