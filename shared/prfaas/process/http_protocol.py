"""uvicorn's HTTP protocol with bounds on what a client may hold."""

import asyncio
import select
from typing import Final

import httptools

from prfaas.contracts.codes import FailureCode
from prfaas.process.connection_places import MAX_CONNECTIONS, ConnectionPlaces
from prfaas.process.half_closed import HalfCloseProtocol, poll
from prfaas.process.http_errors import error_response
from prfaas.telemetry.logs import get_logger

MAX_HEAD_BYTES: Final = 64 * 1024
"""Bytes of a request's path and headers together, and of any part of a request whose end has not come."""
MAX_HEADERS: Final = 256
MAX_FRAMING_PER_BODY_BYTE: Final = 1
"""Bytes of chunk sizes and line ends per byte of a body, beside those of a head; a chunk of six bytes has five."""
MAX_PIPELINED: Final = 32
"""Requests of a connection that wait while another one is answered."""
HEAD_TIMEOUT_S: Final = 10.0
"""Time for the first request of a connection, for the rest of a begun head, and for the rest of a body that was refused."""
REFUSED_POLITELY: Final = 32
"""Connections beyond the bound that are told why; those beyond these are only closed."""
LINGER_S: Final = 1.0
"""Time for a refused client to read the answer: closing with unread bytes resets the connection, and the answer is lost."""
LOG_EVERY_S: Final = 5.0

_BUSY_LOOK_S: Final = 0.05
LEAVE_IDLE_S: Final = 1.0
"""Time without a request after which a server that leaves closes a connection. A client that uses it before is answered, and
told to use another one."""

log = get_logger(__name__)


class _HeadTooLargeError(Exception):
    """A request's head has more bytes or headers than this server reads."""


class _TooManyPipelinedError(Exception):
    """A client has sent more requests than may wait for the answer to the one before."""


class HttpProtocol(HalfCloseProtocol):
    """Bounds heads in size and time, and connections in number; uvicorn's own settings do so only for a head that is complete.

    Ignores an offer of another protocol, which uvicorn takes for the end of the request: Java's client sends `Upgrade: h2c`."""

    head_timeout_s = HEAD_TIMEOUT_S
    places: "ConnectionPlaces[HttpProtocol]" = ConnectionPlaces(MAX_CONNECTIONS)
    """Places of all connections of one server, which has a subclass of its own."""
    _full_logged_at = -LOG_EVERY_S
    """Moment of the last log line about a full house, of all connections."""

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
        if gives_way := self.places.enter(self):
            gives_way.give_way()
            self._log_full("connections_gave_way")
        if self.places.excess <= 0:
            self._expect_more()
            return
        self._log_full("connections_refused")
        if self.places.excess > REFUSED_POLITELY:
            self.places.closed[FailureCode.OVERLOADED] += 1
            self._refused = True
            transport.abort()
            return
        self._refuse(503, FailureCode.OVERLOADED, f"This server already has {self.places.limit} busy connections.")

    def give_way(self) -> None:
        """Closes the connection, which has no request."""
        self._refused = True
        self._expect_nothing()
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        self.places.leave(self)
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
        if len(self.pipeline) >= MAX_PIPELINED:
            # One packet may hold thousands of requests, and each would have its state.
            raise _TooManyPipelinedError
        self._in_head = False
        self._unparsed_bytes = 0
        self._expect_nothing()
        self.places.head_came(self)
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
        if not self._answering:  # the next one of a pipeline is under way already
            self.places.answered(self)
        if not self._in_head:  # the body of a refused request, which is read and dropped
            self._expect_more()

    def close_if_idle(self) -> None:
        """Closes the connection if its client has used it for nothing lately, and nothing of a request has arrived."""
        begun = self._answering or not self._in_head or self._unparsed_bytes or self._head_bytes
        if begun or self._refused or self.transport.is_closing() or self.loop.time() - self._idle_since < LEAVE_IDLE_S:
            return
        if not poll(self.transport, select.POLLIN):
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
        elif poll(self.transport, select.POLLIN):  # the loop was busy, and has not read yet what is there
            self._timer = self.loop.call_later(_BUSY_LOOK_S, self._too_slow)
        elif self._in_head and (self._unparsed_bytes or self._head_bytes):
            message = f"The request's head did not arrive within {self.head_timeout_s:g} s."
            self._refuse(408, FailureCode.REQUEST_TIMEOUT, message)
        else:
            self.places.closed["silent"] += 1
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
        self.places.closed[code or "invalid_http"] += 1
        self._expect_nothing()
        if self._answering:
            if self.cycle.response_started or self.pipeline:
                # This error would be taken for another request's answer, or for a part of it.
                self.transport.close()
                return
            # The application waits for the rest of this request: it hears that the client is gone, and answers nothing more.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.write(error_response(status, code, message))
        self.transport.write_eof()
        self._timer = self.loop.call_later(LINGER_S, self.transport.close)

    def _log_full(self, event: str) -> None:
        now_s = self.loop.time()
        if now_s - HttpProtocol._full_logged_at >= LOG_EVERY_S:
            HttpProtocol._full_logged_at = now_s
            log.warning(event, max_connections=self.places.limit)

    # ---- half-closed and idle clients

    def eof_received(self) -> bool:  # type: ignore[override]
        return False if self._refused else super().eof_received()

    def timeout_keep_alive_handler(self) -> None:
        """Closes an idle connection, unless a request has arrived that the loop has not read yet."""
        if not self.transport.is_closing() and poll(self.transport, select.POLLIN):
            self.timeout_keep_alive_task = self.loop.call_later(_BUSY_LOOK_S, self.timeout_keep_alive_handler)
            return
        super().timeout_keep_alive_handler()
