"""uvicorn's HTTP protocol, which also answers clients that close only their sending side, and closes no connection in use."""

import json
import select
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from prfaas.process.request_ids import new_request_id

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


class HttpProtocol(HttpToolsProtocol):
    """Reads FIN as "no more requests", not as "gone".

    A client that has closed its socket and one that has closed only its sending side look alike until something is sent to
    them: the closed one answers with a reset. So both are sent what clients must skip: before the answer an interim response
    (RFC 9110, 15.2), within an event stream a comment."""

    _probed_at = 0.0

    def eof_received(self) -> bool:  # type: ignore[override]
        """Returns True to keep the transport open for the answers that are under way."""
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

    def send_400_response(self, msg: str) -> None:
        """Answers bytes that are no HTTP in the shape of all other errors."""
        error = {"message": msg, "type": "invalid_request_error", "param": None, "code": None}
        body = json.dumps({"error": error}).encode()
        head = (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
            f"content-length: {len(body)}\r\nx-request-id: {new_request_id()}\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def _poll(transport: Any, events: int) -> bool:
    """Tells whether one of the events, a reset or an error is there now."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), events)
    return bool(poll.poll(0))
