"""Spans with explicit parents, with and without an SDK, and what the exporting half drops."""

import threading
from collections.abc import Sequence

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from prometheus_client import CollectorRegistry

from prfaas.telemetry.export import CountingSpanProcessor
from prfaas.telemetry.tracing import Tracing, extract, inject, set_up_tracing, trace_id

SAMPLED = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


@pytest.fixture(autouse=True)
def no_otel_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "OTEL_SDK_DISABLED",
        "OTEL_TRACES_EXPORTER",
    ):
        monkeypatch.delenv(name, raising=False)


def set_up() -> Tracing:
    return set_up_tracing(role="gateway", instance="g0", site="east", registry=CollectorRegistry())


def test_without_an_endpoint_nothing_is_recorded_but_the_context_goes_on() -> None:
    tracing = set_up()
    assert not tracing.enabled
    span = tracing.start("chat m", parent=extract(SAMPLED))
    child = tracing.start("prefill", parent=span)
    assert not child.is_recording()
    assert inject(child, {"x": "y"}) == {**SAMPLED, "x": "y"}
    assert inject(tracing.start("chat m", parent=None), {}) == {}
    assert tracing.shut_down(0)


@pytest.mark.parametrize(
    "environ",
    [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}],
)
def test_the_standard_switches_turn_it_off(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]) -> None:
    for name, value in {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", **environ}.items():
        monkeypatch.setenv(name, value)
    assert not set_up().enabled


def test_a_protocol_that_is_not_supported_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(ValueError, match="`grpc`, but only `http/protobuf`"):
        set_up()


def test_extract_takes_names_in_any_case_and_ignores_what_is_malformed() -> None:
    title_case = {"Traceparent": SAMPLED["traceparent"], "TraceState": "vendor=1"}
    assert inject(extract(title_case), {}) == {**SAMPLED, "tracestate": "vendor=1"}
    for headers in (None, {}, {"traceparent": "00-zz"}, {"other": "x"}):
        assert inject(extract(headers), {}) == {}


def test_parents_are_explicit_even_inside_a_current_span() -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    tracing = Tracing(provider)
    with trace.use_span(tracing.start("someone else's", parent=None)) as other:
        root = tracing.start("chat m", parent=None, start_ns=17)
        child = tracing.start("place", parent=root)
        remote = tracing.start("prefill", parent=extract(inject(child, {})))
    assert isinstance(root, ReadableSpan) and isinstance(child, ReadableSpan) and isinstance(remote, ReadableSpan)
    assert root.parent is None and root.start_time == 17
    assert child.parent is not None and child.parent.span_id == root.get_span_context().span_id
    assert remote.parent is not None and remote.parent.span_id == child.get_span_context().span_id
    assert trace_id(remote) == trace_id(root) != trace_id(other)
    provider.shutdown()


def test_workers_follow_the_sampling_decision_of_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    tracing = set_up()
    assert not tracing.start("chat m", parent=None).is_recording()
    assert tracing.start("prefill", parent=extract(SAMPLED)).is_recording()
    unsampled = {"traceparent": SAMPLED["traceparent"][:-2] + "00"}
    assert not tracing.start("prefill", parent=extract(unsampled)).is_recording()
    assert tracing.shut_down(5)


class GatedExporter(SpanExporter):
    def __init__(self, result: SpanExportResult) -> None:
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.exported: list[str] = []
        self._result = result

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.entered.set()
        assert self.gate.wait(60)
        self.exported += [span.name for span in spans]
        return self._result

    def shutdown(self) -> None:
        pass


def counted(exporter: GatedExporter, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> Tracing:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "4")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(CountingSpanProcessor(exporter, registry))
    return Tracing(provider)


def dropped(registry: CollectorRegistry, reason: str) -> float | None:
    return registry.get_sample_value("prfaas_trace_spans_dropped_total", {"reason": reason})


def test_a_full_queue_drops_the_newest_and_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter, registry = GatedExporter(SpanExportResult.SUCCESS), CollectorRegistry()
    tracing = counted(exporter, registry, monkeypatch)
    for i in range(4):
        tracing.record(f"batch {i}", parent=None, start_ns=1, end_ns=2)
    assert exporter.entered.wait(60)
    for i in range(7):
        tracing.record(f"queued {i}", parent=None, start_ns=1, end_ns=2)
    assert dropped(registry, "queue_full") == 3
    exporter.gate.set()
    assert tracing.shut_down(60)
    assert sorted(exporter.exported) == [*(f"batch {i}" for i in range(4)), *(f"queued {i}" for i in range(4))]
    assert dropped(registry, "export_failed") == 0


def test_spans_that_the_collector_refused_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter, registry = GatedExporter(SpanExportResult.FAILURE), CollectorRegistry()
    exporter.gate.set()
    tracing = counted(exporter, registry, monkeypatch)
    tracing.record("place", parent=None, start_ns=1, end_ns=2)
    assert tracing.shut_down(60)
    assert dropped(registry, "export_failed") == 1


def test_shutting_down_ends_at_its_deadline_when_the_collector_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = GatedExporter(SpanExportResult.SUCCESS)
    tracing = counted(exporter, CollectorRegistry(), monkeypatch)
    tracing.record("place", parent=None, start_ns=1, end_ns=2)
    assert not tracing.shut_down(0.05)
    exporter.gate.set()
