"""OpenTelemetry traces, set up by the standard OTEL_* environment variables only; without an endpoint no SDK is loaded.

Parents are explicit: a request's spans start in callbacks and threads where a "current" span would be another request's.
"""

import os
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import CollectorRegistry

from prfaas.telemetry import names

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

AttributeValue = str | bool | int | float | Sequence[str]

_W3C = TraceContextTextMapPropagator()
_NOWHERE = Context()


class Tracing:
    """Starts spans of one process. Without a provider they record nothing, yet pass their parent's context on."""

    def __init__(self, provider: "TracerProvider | None" = None) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("prfaas") if provider is not None else None

    @property
    def enabled(self) -> bool:
        return self._tracer is not None

    def start(
        self,
        name: str,
        *,
        parent: Context | Span | None,
        kind: SpanKind = SpanKind.INTERNAL,
        start_ns: int | None = None,
        attributes: Mapping[str, AttributeValue] | None = None,
    ) -> Span:
        """Starts a span that the caller ends; `parent=None` starts a trace.

        Times are `time.time_ns()`, not a monotonic clock: spans of two sites meet on one axis."""
        if self._tracer is None:
            return NonRecordingSpan(_span_context(parent))
        context = trace.set_span_in_context(parent, _NOWHERE) if isinstance(parent, Span) else parent or _NOWHERE
        return self._tracer.start_span(name, context, kind, attributes, start_time=start_ns)

    def record(
        self,
        name: str,
        *,
        parent: Context | Span | None,
        start_ns: int,
        end_ns: int,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, AttributeValue] | None = None,
    ) -> None:
        """Records a span that is already over."""
        if self._tracer is not None:
            self.start(name, parent=parent, kind=kind, start_ns=start_ns, attributes=attributes).end(end_ns)

    def shut_down(self, timeout_s: float) -> bool:
        """Sends what is queued; blocks. Returns False when that took too long: the rest is lost, the exporter abandoned."""
        if self._provider is None:
            return True
        # The SDK's shutdown waits up to 30 s and cannot be told less.
        flush = threading.Thread(target=self._provider.shutdown, name="trace-flush", daemon=True)
        flush.start()
        flush.join(timeout_s)
        return not flush.is_alive()


def set_up_tracing(*, role: str, instance: str, site: str, registry: CollectorRegistry) -> Tracing:
    """Sampler, limits, queue and exporter follow OTEL_*; spans that had to be dropped are counted in `registry`.

    Raises ValueError for a protocol that is not supported."""
    if not _wanted(os.environ):
        return Tracing()
    # Imported late: a process that does not trace pays neither the 100 ms nor the memory.
    from prfaas.telemetry.export import make_provider

    resource = {names.SERVICE_INSTANCE_ID: instance, names.SITE: site}
    if "OTEL_SERVICE_NAME" not in os.environ:
        resource[names.SERVICE_NAME] = f"prfaas-{role}"
    return Tracing(make_provider(resource, registry))


def inject(span: Span | Context, headers: dict[str, str]) -> dict[str, str]:
    """Adds `traceparent` (and `tracestate`) to the headers of a message, and returns them."""
    context = trace.set_span_in_context(span, _NOWHERE) if isinstance(span, Span) else span
    _W3C.inject(headers, context)
    return headers


def extract(headers: Mapping[str, str] | None) -> Context:
    """Context of a message's sender; an empty one, which starts a new trace, when there is none or it is malformed."""
    if not headers:
        return _NOWHERE
    carrier = {name.lower(): value for name, value in headers.items() if name.lower() in ("traceparent", "tracestate")}
    return _W3C.extract(carrier, _NOWHERE) if carrier else _NOWHERE


def trace_id(span: Span) -> str:
    """32 hex digits; all zero for a span that is in no trace."""
    return trace.format_trace_id(span.get_span_context().trace_id)


def _span_context(parent: Context | Span | None) -> trace.SpanContext:
    if parent is None:
        return trace.INVALID_SPAN_CONTEXT
    span = parent if isinstance(parent, Span) else trace.get_current_span(parent)
    return span.get_span_context()


def _wanted(environ: Mapping[str, str]) -> bool:
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER", "otlp") == "none":
        return False
    if not (environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")):
        return False
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    if protocol != "http/protobuf":
        raise ValueError(f"OTEL_EXPORTER_OTLP_PROTOCOL is `{protocol}`, but only `http/protobuf` is supported.")
    return True
