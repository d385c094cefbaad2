"""uvicorn's HTTP protocol with patience for clients that close only their sending side."""

import select
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from prfaas.process.answer_heads import IS_EVENT_STREAM

PROBE_AFTER_S: Final = 0.5
"""Seconds that a half-closed client may wait for its answer before it is probed; most answers have begun by then."""
PROBE_EVERY_S: Final = 5.0
LOOK_EVERY_S: Final = 0.05
_INTERIM_RESPONSE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_COMMENT_CHUNK: Final = b"3\r\n:\n\n\r\n"


class HalfCloseProtocol(HttpToolsProtocol):
    """Reads FIN as "no more requests", not as "gone".

    A client that has closed its socket and one that has closed only its sending side look alike until something is sent to them:
    the closed one answers with a reset. So both are sent what clients must skip: before the answer an interim response (RFC 9110,
    15.2), within an event stream a comment."""

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
        if poll(self.transport, 0):  # only what is always reported: a reset or an error
            self.transport.abort()
            return
        if self.loop.time() - self._probed_at >= PROBE_EVERY_S:
            self._probed_at = self.loop.time()
            self._probe()
        self.loop.call_later(LOOK_EVERY_S, self._look)

    def _probe(self) -> None:
        if not self.cycle.response_started:
            self.transport.write(_INTERIM_RESPONSE)
        elif self.cycle.chunked_encoding and self.cycle.scope["state"].get(IS_EVENT_STREAM):
            self.transport.write(_COMMENT_CHUNK)


def poll(transport: Any, events: int) -> bool:
    """Tells whether one of the events, a reset or an error is there now."""
    polling = select.poll()
    polling.register(transport.get_extra_info("socket").fileno(), events)
    return bool(polling.poll(0))
