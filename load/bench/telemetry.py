"""The cost of observing: one operation each, with tracing off and on, interleaved. `python -m load.bench.telemetry`."""

import gc
import statistics
import sys
import time
from collections.abc import Callable, Sequence

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from prometheus_client import CollectorRegistry

from prfaas.contracts.kv import TransferReport
from prfaas.process import interruption
from prfaas.telemetry import names
from prfaas.telemetry.export import CountingSpanProcessor
from prfaas.telemetry.logs import get_logger, request_logs, set_up_logs
from prfaas.telemetry.metrics.gateway import GatewayMetrics
from prfaas.telemetry.metrics.transfer import TransferMetrics
from prfaas.telemetry.tracing import AttributeValue, Tracing, extract, inject

ROUNDS = 15
CALLS = 2_000
SPANS_PER_REQUEST = 10
ATTRIBUTES: dict[str, AttributeValue] = {
    names.KV_BYTES: 20_138_000,
    names.KV_FRAMES: 144,
    names.KV_OVERLAP_RATIO: 0.94,
    names.KV_RESIDUAL_S: 0.05,
    names.OUTCOME: "offloaded",
}
HEADERS = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


class NowhereExporter(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


def main() -> None:
    set_up_logs(level="info", format="json", service="bench", site="east", instance="b0")
    recording = TracerProvider(shutdown_on_exit=False)
    recording.add_span_processor(CountingSpanProcessor(NowhereExporter(), CollectorRegistry()))
    off, sampled_out, on = Tracing(), Tracing(TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)), Tracing(recording)
    parent, span, root = extract(HEADERS), on.start("root", parent=None), off.start("root", parent=extract(HEADERS))
    requests = GatewayMetrics(CollectorRegistry()).model("m")
    transfers = TransferMetrics(CollectorRegistry())
    report = TransferReport(bytes=1, frames=1, attempts=1, duration_s=1.0)
    log = get_logger("bench")

    def one_span(tracing: Tracing) -> Callable[[], None]:
        return lambda: tracing.start("prefill", parent=parent, attributes=ATTRIBUTES).end()

    def request_logged() -> None:
        with request_logs("r1", span):
            pass

    operations: dict[str, Callable[[], object]] = {
        "empty call": lambda: None,
        "span, tracing off": one_span(off),
        "span, sampled out": one_span(sampled_out),
        "span of 5 attributes, recorded": one_span(on),
        "inject + extract, tracing off": lambda: extract(inject(root, {})),
        "inject + extract, recorded": lambda: extract(inject(span, {})),
        "extract of no context": lambda: extract(None),
        "bound histogram observe": lambda: requests.inter_token.observe(0.02),
        "bound counter inc": lambda: requests.generation_tokens.inc(),
        "TransferMetrics.verified": lambda: transfers.verified("west", "east", report, 0.1),
        "log line below the level": lambda: log.debug("hidden", tokens=3),
        "request_logs": request_logged,
    }
    costs_us: dict[str, list[float]] = {name: [] for name in operations}
    gc.disable()
    for _ in range(ROUNDS):
        for name, operation in operations.items():
            begin_ns = time.perf_counter_ns()
            for _ in range(CALLS):
                operation()
            costs_us[name].append((time.perf_counter_ns() - begin_ns) / CALLS / 1e3)
        gc.collect()
    on.shut_down(5)

    empty_us = statistics.median(costs_us["empty call"])
    print(f"{'operation':34} {'us':>7} {'best':>7}   (median and best of {ROUNDS} rounds of {CALLS} calls, less an empty call)")
    for name, samples in costs_us.items():
        print(f"{name:34} {statistics.median(samples) - empty_us:7.2f} {min(samples) - empty_us:7.2f}")
    for name in ("span, tracing off", "span, sampled out", "span of 5 attributes, recorded"):
        cost_us = SPANS_PER_REQUEST * (statistics.median(costs_us[name]) - empty_us)
        print(f"a request of {SPANS_PER_REQUEST} spans: {cost_us:6.1f} us  ({name})")


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
