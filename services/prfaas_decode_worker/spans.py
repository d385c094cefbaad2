"""Spans of a request in the decode worker: `generate` from arrival to the end, `decode` from joining the batch to the end."""

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind
from opentelemetry.trace.status import StatusCode

from prfaas.contracts.codes import GOOD_ENDS, FailureCode
from prfaas.contracts.to_decode import Generate
from prfaas.telemetry import names
from prfaas.telemetry.metrics.transfer import overlap_ratio
from prfaas.telemetry.tracing import Tracing
from prfaas_decode_worker.events import Release


class RequestSpans:
    """Open spans by request."""

    def __init__(self, tracing: Tracing, worker: str) -> None:
        self._tracing = tracing
        self._worker = worker
        self._generate: dict[str, Span] = {}
        self._decode: dict[str, Span] = {}

    def arrived(self, generate: Generate, parent: Context) -> Span:
        span = self._tracing.start(
            names.GENERATE,
            parent=parent,
            kind=SpanKind.SERVER,
            attributes={
                names.REQUEST_ID: generate.request_id,
                names.WORKER: self._worker,
                names.REQUEST_MODEL: generate.model,
                names.REQUEST_MAX_TOKENS: generate.sampling.max_tokens,
            },
        )
        self._generate[generate.request_id] = span
        return span

    def of(self, request_id: str) -> Span:
        return self._generate[request_id]

    def refused(self, request_id: str, code: str) -> None:
        self._end(self._generate.pop(request_id), code)

    def broken(self, request_id: str) -> None:
        """Ends what is open of a request that could not be taken."""
        if request_id in self._generate:
            self.refused(request_id, FailureCode.INTERNAL)

    def joined(self, request_id: str) -> None:
        self._decode[request_id] = self._tracing.start(names.DECODE, parent=self._generate[request_id])

    def released(self, release: Release) -> None:
        decode, span = self._decode.pop(release.request_id, None), self._generate.pop(release.request_id)
        if decode is not None:
            decode.set_attribute(names.USAGE_OUTPUT_TOKENS, release.completion_tokens)
            self._end(decode, release.ended)
        span.set_attributes(
            {
                names.OUTCOME: release.outcome.value,
                names.KV_BYTES: release.report.bytes,
                names.KV_RESIDUAL_S: release.times.residual_s,
                names.PREFILL_QUEUE_S: release.times.queue_s,
            }
        )
        self._end(span, release.ended)

    def _end(self, span: Span, ended: str) -> None:
        if ended not in GOOD_ENDS:
            span.set_attribute(names.ERROR_TYPE, ended)
            span.set_status(StatusCode.ERROR, ended)
        span.end()


def describe_transfer(span: Span, release: Release) -> None:
    """Sets a verified transfer's figures on its span."""
    report, residual_s = release.report, release.times.residual_s
    span.set_attributes({names.KV_BYTES: report.bytes, names.KV_FRAMES: report.frames})
    span.set_attribute(names.KV_LOSSY_FRAMES, report.lossy_frames)
    if report.duration_s > 0:
        span.set_attributes(
            {
                names.KV_GOODPUT: report.bytes / report.duration_s,
                names.KV_RESIDUAL_S: residual_s,
                names.KV_OVERLAP_RATIO: overlap_ratio(report.duration_s, residual_s),
            }
        )
