"""uvicorn's HTTP protocol with bounds on what a client may hold, and patience with clients that close only their sending side."""

import asyncio
import json
import resource
import select
from http import HTTPStatus
from typing import Any, Final

import httptools
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from prfaas.contracts.codes import RETRY_STATUSES, FailureCode
from prfaas.process.request_ids import new_request_id
from prfaas.telemetry.logs import get_logger

MAX_HEAD_BYTES: Final = 64 * 1024
"""Bytes of a request's path and headers together, and of any part of a request whose end has not come."""
MAX_HEADERS: Final = 256
MAX_FRAMING_PER_BODY_BYTE: Final = 1
"""Bytes of chunk sizes and line ends per byte of a body, beside those of a head; a chunk of six bytes has five."""
HEAD_TIMEOUT_S: Final = 10.0
"""Time for the first request of a connection, for the rest of a begun head, and for the rest of a body that was refused."""
MAX_CONNECTIONS: Final = 8192
"""Connections at once, where the process may open enough files."""
RESERVED_FILES: Final = 96
"""Descriptors of the process that are kept for other things than its clients."""
REFUSED_POLITELY: Final = 32
"""Connections beyond the bound that are told why; those beyond these are only closed."""
LINGER_S: Final = 1.0
"""Time for a refused client to read the answer: closing with unread bytes resets the connection, and the answer is lost."""
LOG_EVERY_S: Final = 5.0

PROBE_AFTER_S: Final = 0.5
"""Seconds that a half-closed client may wait for its answer before it is probed; most answers have begun by then."""
PROBE_EVERY_S: Final = 5.0
LOOK_EVERY_S: Final = 0.05
_INTERIM_RESPONSE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_COMMENT_CHUNK: Final = b"3\r\n:\n\n\r\n"
_BUSY_LOOK_S: Final = 0.05
LEAVE_IDLE_S: Final = 1.0
"""Time without a request after which a server that leaves closes a connection. A client that uses it before is answered, and
told to use another one."""
_IS_EVENT_STREAM: Final = "is_event_stream"


class SayFarewell:
    """ASGI middleware: once `leaving` is set, each answer tells its client to use this connection no more."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.leaving = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_farewell(message: Message) -> None:
            if self.leaving and message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        await self._app(scope, receive, send_farewell)


class MarkEventStreams:
    """ASGI middleware: tells the protocol below that an answer may hold comments."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                content_type = dict(message.get("headers", ())).get(b"content-type", b"")
                scope["state"][_IS_EVENT_STREAM] = content_type.startswith(b"text/event-stream")
            await send(message)

        await self._app(scope, receive, send_marked)


log = get_logger(__name__)


def connection_limit() -> int:
    """Returns the connections that the process can serve with the files that it may open."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, files - RESERVED_FILES))


class _HeadTooLargeError(Exception):
    """A request's head has more bytes or headers than this server reads."""


class HttpProtocol(HttpToolsProtocol):
    """Bounds heads in size and time, and connections in number; uvicorn's own settings do so only for a head that is complete.

    It ignores an offer of another protocol, which uvicorn takes for the end of the request: Java's client sends `Upgrade: h2c`.

    It reads FIN as "no more requests", not as "gone". A client that has closed its socket and one that has closed only its
    sending side look alike until something is sent to them: the closed one answers with a reset. So both are sent what clients
    must skip: before the answer an interim response (RFC 9110, 15.2), within an event stream a comment."""

    head_timeout_s = HEAD_TIMEOUT_S
    max_connections = MAX_CONNECTIONS
    _refusals_logged_at = -LOG_EVERY_S
    """Moment of the last log line about refused connections, of all connections."""

    _probed_at = 0.0
    _in_head = True
    """True between the end of one request and the end of the next one's head."""
    _head_bytes = 0
    """Bytes of the current request's path and headers, and of its trailers."""
    _head_headers = 0
    _unparsed_bytes = 0
    """Bytes received since the parser last found something: those of a line without end pile up in it."""
    _received_bytes = 0
    """Bytes of the current request, those of its body included."""
    _body_bytes = 0
    _refused = False
    _idle_since = 0.0
    """Moment of the connection's start, or of the end of its last answer."""
    _timer: asyncio.TimerHandle | None = None

    # ---- bounds

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        excess = len(self.connections) - self.max_connections
        if excess <= 0:
            self._expect_more()
            return
        self._log_refusal()
        if excess > REFUSED_POLITELY:
            self._refused = True
            transport.abort()
            return
        self._refuse(503, FailureCode.OVERLOADED, f"This server already has {self.max_connections} connections open.")

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._unparsed_bytes += len(data)
        self._received_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self.send_400_response("The request is not valid HTTP.")
        self._judge()

    def _parse(self, data: bytes) -> None:
        """Raises HttpParserError."""
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                if not self._offers_upgrade:  # CONNECT
                    raise httptools.HttpParserError from upgrade
                data = self._head_without_upgrade() + data[upgrade.args[0] :]
                self._head_bytes = self._head_headers = 0
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn sets it

    @property
    def _offers_upgrade(self) -> bool:
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != b"CONNECT"

    def _head_without_upgrade(self) -> bytes:
        """Returns the current head without its offer, which a server is free to ignore (RFC 9110, 7.8).

        httptools skips the body of a request with an offer; it is parsed with this head in front of it."""
        line = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        headers = [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([line, *headers, b"", b""])

    def _judge(self) -> None:
        """Refuses a head that has grown too large, and begins its time when it has only begun."""
        if self._refused:
            return
        framing_bytes = self._received_bytes - self._body_bytes
        if max(self._unparsed_bytes, framing_bytes - MAX_FRAMING_PER_BODY_BYTE * self._body_bytes) > MAX_HEAD_BYTES:
            self._refuse_head()
        elif self._in_head and (self._unparsed_bytes or self._head_bytes):
            self._expect_more()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_headers += 1
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._received_bytes = self._body_bytes = 0

    def on_headers_complete(self) -> None:
        if self._offers_upgrade:
            return
        self._in_head = False
        self._unparsed_bytes = 0
        self._expect_nothing()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._unparsed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._offers_upgrade:
            return
        self._in_head = True
        self._head_bytes = self._head_headers = self._unparsed_bytes = 0
        self._expect_nothing()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._idle_since = self.loop.time()
        if not self._in_head:  # the body of a refused request, which is read and dropped
            self._expect_more()

    def close_if_idle(self) -> None:
        """Closes the connection if its client has used it for nothing lately, and nothing of a request has arrived."""
        begun = self._answering or not self._in_head or self._unparsed_bytes or self._head_bytes
        if begun or self._refused or self.transport.is_closing() or self.loop.time() - self._idle_since < LEAVE_IDLE_S:
            return
        if not _poll(self.transport, select.POLLIN):
            self.transport.close()

    def _count(self, found_bytes: int) -> None:
        self._unparsed_bytes = 0
        self._head_bytes += found_bytes
        if self._head_bytes > MAX_HEAD_BYTES or self._head_headers > MAX_HEADERS:
            # Out of the parser, which uvicorn answers by send_400_response.
            raise _HeadTooLargeError

    def _expect_more(self) -> None:
        if self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(self.head_timeout_s, self._too_slow)

    def _expect_nothing(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self._answering:  # reading may be paused until the answer is out
            self._expect_more()
        elif _poll(self.transport, select.POLLIN):  # the loop was busy, and has not read yet what is there
            self._timer = self.loop.call_later(_BUSY_LOOK_S, self._too_slow)
        elif self._in_head and (self._unparsed_bytes or self._head_bytes):
            message = f"The request's head did not arrive within {self.head_timeout_s:g} s."
            self._refuse(408, FailureCode.REQUEST_TIMEOUT, message)
        else:
            self.transport.close()

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse_head(self) -> None:
        message = f"The request's head has more than {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} headers, or a line without end."
        self._refuse(431, FailureCode.HEAD_TOO_LARGE, message)

    def send_400_response(self, msg: str) -> None:
        """Answers bytes that are no HTTP, and heads that are too large, in the shape of all other errors."""
        if self._head_bytes > MAX_HEAD_BYTES or self._head_headers > MAX_HEADERS:
            self._refuse_head()
        else:
            self._refuse(400, None, msg)

    def _refuse(self, status: int, code: FailureCode | None, message: str) -> None:
        """Answers, reads and drops what else comes for LINGER_S, and closes."""
        self._refused = True
        self._expect_nothing()
        if self._answering:
            if (
                self.cycle.response_started or self.pipeline
            ):  # this error would be taken for another request's answer, or part of it
                self.transport.close()
                return
            # The application waits for the rest of this request: it hears that the client is gone, and answers nothing more.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        kind = "server_error" if status >= 500 else "invalid_request_error"
        body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "content-type: application/json", "connection: close"]
        lines += [f"content-length: {len(body)}", f"x-request-id: {new_request_id()}"]
        lines.append("x-should-retry: false" if status not in RETRY_STATUSES else "retry-after: 1")
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self.transport.write_eof()
        self._timer = self.loop.call_later(LINGER_S, self.transport.close)

    def _log_refusal(self) -> None:
        now_s = self.loop.time()
        if now_s - HttpProtocol._refusals_logged_at >= LOG_EVERY_S:
            HttpProtocol._refusals_logged_at = now_s
            log.warning("connections_refused", max_connections=self.max_connections)

    # ---- half-closed and idle clients

    def eof_received(self) -> bool:  # type: ignore[override]
        """Returns True to keep the transport open for the answers that are under way."""
        if self._refused:
            return False
        last = self.pipeline[0][0] if self.pipeline else self.cycle
        if last is None or last.more_body or last.response_complete or last.scope["http_version"] == "1.0":
            return False
        last.keep_alive = False
        self._probed_at = self.loop.time() + PROBE_AFTER_S - PROBE_EVERY_S
        self.loop.call_later(LOOK_EVERY_S, self._look)
        return True

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        if _poll(self.transport, 0):  # only what is always reported: a reset or an error
            self.transport.abort()
            return
        if self.loop.time() - self._probed_at >= PROBE_EVERY_S:
            self._probed_at = self.loop.time()
            self._probe()
        self.loop.call_later(LOOK_EVERY_S, self._look)

    def _probe(self) -> None:
        if not self.cycle.response_started:
            self.transport.write(_INTERIM_RESPONSE)
        elif self.cycle.chunked_encoding and self.cycle.scope["state"].get(_IS_EVENT_STREAM):
            self.transport.write(_COMMENT_CHUNK)

    def timeout_keep_alive_handler(self) -> None:
        """Closes an idle connection, unless a request has arrived that the loop has not read yet."""
        if not self.transport.is_closing() and _poll(self.transport, select.POLLIN):
            self.timeout_keep_alive_task = self.loop.call_later(_BUSY_LOOK_S, self.timeout_keep_alive_handler)
            return
        super().timeout_keep_alive_handler()


def _poll(transport: Any, events: int) -> bool:
    """Tells whether one of the events, a reset or an error is there now."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), events)
    return bool(poll.poll(0))
