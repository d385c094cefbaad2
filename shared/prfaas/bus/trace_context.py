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
def trace_of(message: Msg) -> Iterator[None]:
    """Makes the sender's context current: an empty one, not the subscriber's own, when the message carries none."""
    try:
        sent = extract(message.headers)
    except Exception:  # a trace is no reason to lose the message
        sent = Context()
    token = trace_context.attach(sent)
    try:
        yield
    finally:
        trace_context.detach(token)
