"""W3C trace context in the headers of control messages."""

import contextlib
from collections.abc import Iterator

from nats.aio.msg import Msg
from opentelemetry import context as trace_context
from opentelemetry.context import Context
from opentelemetry.trace import Span

from prfaas.telemetry.tracing import extract, inject

Headers = dict[str, str]


def trace_headers(parent: Span | Context | None) -> Headers | None:
    """Returns the context of `parent`, else the current one; None without any: a message without headers is cheaper."""
    return inject(trace_context.get_current() if parent is None else parent, {}) or None


@contextlib.contextmanager
def no_trace() -> Iterator[None]:
    """Makes an empty context current."""
    token = trace_context.attach(Context())
    try:
        yield
    finally:
        trace_context.detach(token)


class trace_of:
    """Makes the sender's context current; changes nothing when the message carries none."""

    __slots__ = ("_sent", "_token")

    def __init__(self, message: Msg) -> None:
        self._sent: Context | None = None
        if message.headers:
            try:
                self._sent = extract(message.headers)
            except Exception:  # a trace is no reason to lose the message
                self._sent = Context()

    def __enter__(self) -> None:
        if self._sent is not None:
            self._token = trace_context.attach(self._sent)

    def __exit__(self, *_: object) -> None:
        if self._sent is not None:
            trace_context.detach(self._token)
