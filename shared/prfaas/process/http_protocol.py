"""uvicorn's HTTP protocol for the clients that there are: half-closed, slow, with endless headers, or offering HTTP/2."""

import json
import select
from http import HTTPStatus
from typing import Any, Final

import httptools
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from prfaas.contracts.codes import FailureCode
from prfaas.process.request_ids import new_request_id

MAX_HEAD_BYTES: Final = 64 * 1024
"""Longest request line with its headers."""
MAX_FRAMING_PER_BODY_BYTE: Final = 1
"""Bytes of chunk sizes and line ends per byte of a body, beside those of a head; a chunk of six bytes has five."""
LINGER_S: Final = 2.0
"""Time in which what a refused client still sends is dropped: a reset would take the answer with it."""
PROBE_AFTER_S: Final = 0.5
"""Seconds that a half-closed client may wait for its answer before it is probed; most answers have begun by then."""
PROBE_EVERY_S: Final = 5.0
LOOK_EVERY_S: Final = 0.05
_INTERIM_RESPONSE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_COMMENT_CHUNK: Final = b"3\r\n:\n\n\r\n"
_BUSY_LOOK_S: Final = 0.05
_IS_EVENT_STREAM: Final = "is_event_stream"


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


class _HeadTooLargeError(Exception):
    """Raised in the parser's callbacks, which stops the parser."""


class HttpProtocol(HttpToolsProtocol):
    """Bounds a request's head in size and time, serves requests that offer another protocol, and reads FIN as "no more requests",
    not as "gone".

    uvicorn itself keeps a header without an end in memory, never closes a connection on which no request is complete, and
    loses the body of a request with `Upgrade: h2c`, which Java's client sends by default.

    A client that has closed its socket and one that has closed only its sending side look alike until something is sent to
    them: the closed one answers with a reset. So both are sent what clients must skip: before the answer an interim response
    (RFC 9110, 15.2), within an event stream a comment."""

    _probed_at = 0.0
    _refused = False
    _received_bytes = 0
    """Bytes of the current request."""
    _body_bytes = 0
    _head_bytes = 0
    """Request line and headers of the current request, as far as they are complete."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._received_bytes += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, _HeadTooLargeError):
                self._refuse_head()
            else:
                self._refuse(400, "The request is not valid HTTP.")
            return
        # What is not complete yet: a header without an end, endless chunk extensions.
        if self._received_bytes > MAX_HEAD_BYTES + (1 + MAX_FRAMING_PER_BODY_BYTE) * self._body_bytes:
            self._refuse_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._received_bytes = self._body_bytes = self._head_bytes = 0
        self._await_head()

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._unset_keepalive_if_required()
        if not self._offers_upgrade():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._offers_upgrade():
            super().on_message_complete()

    def _parse(self, data: bytes) -> None:
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                if not self._offers_upgrade():  # CONNECT
                    raise httptools.HttpParserError from upgrade
                data = self._head_without_upgrade() + data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn sets it

    def _offers_upgrade(self) -> bool:
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"

    def _head_without_upgrade(self) -> bytes:
        """Returns the current head without its offer, which a server is free to ignore (RFC 9110, 7.8).

        httptools skips the body of a request with an offer; it is parsed with this head in front of it."""
        line = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        headers = [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([line, *headers, b"", b""])

    def _await_head(self) -> None:
        """Gives the next head the time that a connection may be idle."""
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _count_head(self, size_bytes: int) -> None:
        self._head_bytes += size_bytes
        if self._head_bytes > MAX_HEAD_BYTES:
            raise _HeadTooLargeError

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
        """Closes an idle connection, unless a request has arrived that the loop has not read yet, or is being answered."""
        if self.cycle is not None and not self.cycle.response_complete:
            return  # the end of the answer starts the time anew
        if not self.transport.is_closing() and _poll(self.transport, select.POLLIN):
            self.timeout_keep_alive_task = self.loop.call_later(_BUSY_LOOK_S, self.timeout_keep_alive_handler)
            return
        super().timeout_keep_alive_handler()

    def _refuse_head(self) -> None:
        message = f"The request has more than the {MAX_HEAD_BYTES} bytes of headers and framing that this server reads."
        self._refuse(431, message, FailureCode.HEADERS_TOO_LARGE)

    def _refuse(self, status: int, message: str, code: FailureCode | None = None) -> None:
        """Answers in the shape of all other errors. Nothing else is read from or sent to this client."""
        self._refused = True
        self.logger.warning(message)
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.pipeline.clear()
        body = json.dumps({"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}).encode()
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\nconnection: close\r\n"
            f"content-length: {len(body)}\r\nx-request-id: {new_request_id()}\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.write_eof()
        self.flow.resume_reading()
        self.loop.call_later(LINGER_S, self.transport.close)


def _poll(transport: Any, events: int) -> bool:
    """Tells whether one of the events, a reset or an error is there now."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), events)
    return bool(poll.poll(0))
