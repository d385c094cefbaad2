"""Export of traces, imported only where they are wanted: batches in a bounded queue, and counts what it drops."""

import os
import threading
from collections.abc import Mapping, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from prometheus_client import CollectorRegistry, Counter


def make_provider(resource: Mapping[str, str], registry: CollectorRegistry) -> TracerProvider:
    """Provider whose sampler comes from OTEL_TRACES_SAMPLER; the SDK's default is parentbased_always_on."""
    # shutdown_on_exit would wait up to 30 s for a collector that is gone; Tracing.shut_down has a deadline.
    provider = TracerProvider(resource=Resource.create(dict(resource)), shutdown_on_exit=False)
    provider.add_span_processor(CountingSpanProcessor(OTLPSpanExporter(), registry))
    return provider


class CountingSpanProcessor(BatchSpanProcessor):
    """Drops the newest span when the queue (OTEL_BSP_MAX_QUEUE_SIZE) is full. The SDK would drop the oldest, and tell only an
    OpenTelemetry meter, and there is none here."""

    def __init__(self, exporter: SpanExporter, registry: CollectorRegistry) -> None:
        dropped = Counter(
            "prfaas_trace_spans_dropped", "Ended spans that never reached the trace collector.", ["reason"], registry=registry
        )
        self._dropped_full = dropped.labels("queue_full")
        self._handed_over = _CountingExporter(exporter, dropped.labels("export_failed"))
        self._accepted = 0
        self._lock = threading.Lock()
        self._capacity = int(os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE") or 2048)
        super().__init__(self._handed_over, max_queue_size=self._capacity)

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is None or not span.context.trace_flags.sampled:
            return
        with self._lock:
            full = self._accepted - self._handed_over.count >= self._capacity
            self._accepted += not full
        if full:
            self._dropped_full.inc()
        else:
            super().on_end(span)


class _CountingExporter(SpanExporter):
    def __init__(self, exporter: SpanExporter, failed: Counter) -> None:
        self._exporter = exporter
        self._failed = failed
        self.count = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.count += len(spans)
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            if result is not SpanExportResult.SUCCESS:
                self._failed.inc(len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)
