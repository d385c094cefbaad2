"""Spans, metrics and log lines of a prefill worker's jobs."""

import time
from typing import Self

from opentelemetry.trace import SpanKind
from opentelemetry.trace.status import StatusCode
from prometheus_client import CollectorRegistry

from prfaas.bus.taken_jobs import TakenJob
from prfaas.contracts.codes import FailureCode
from prfaas.telemetry import names
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.metrics.prefill import PrefillMetrics
from prfaas.telemetry.metrics.transfer import SendMetrics
from prfaas.telemetry.tracing import Tracing
from prfaas.transfer.send_options import SendReport
from prfaas.worker.identity import Identity
from prfaas_prefill_worker.events import Refuse
from prfaas_prefill_worker.prefiller import Prefilled
from prfaas_prefill_worker.pulls.puller import Pulled

_REFUSED_RESULTS = {FailureCode.WORKER_LOST: "redelivered"}
"""Label of a refused job by its code, where the two differ."""
_GIVEN_UP_RESULTS = (FailureCode.CANCELLED, FailureCode.EXPIRED)
"""Codes of given-up jobs that are labels of their own; all others are `failed`."""

log = get_logger(__name__)


class JobRecords:
    def __init__(self, identity: Identity, model: str, tracing: Tracing, registry: CollectorRegistry) -> None:
        self.identity = identity
        self.tracing = tracing
        self.metrics = PrefillMetrics(registry, model)
        self.sends = SendMetrics(registry)

    def refused(self, refuse: Refuse) -> None:
        log.info("job_refused", request_id=refuse.job.request_id, code=refuse.code, reason=refuse.message)
        self.metrics.job(_REFUSED_RESULTS.get(refuse.code, refuse.code))

    def broke(self, taken: TakenJob, error: Exception) -> None:
        log.error("job_broke", request_id=taken.job.request_id, attempt=taken.job.transfer.attempt, exc_info=error)
        self.metrics.job("failed")


class JobRecord:
    """One job that runs. As a context it is the span of its prefill; the KV's last frames have one of their own."""

    def __init__(self, records: JobRecords, taken: TakenJob, tokens: int) -> None:
        self._records = records
        self._taken = taken
        self._tokens = tokens
        self._started_ns = time.time_ns()
        self._pulled = Pulled()

    def __enter__(self) -> Self:
        job, transfer, age_s = self._taken.job, self._taken.job.transfer, self._taken.age_s
        log.info("job_taken", request_id=job.request_id, attempt=transfer.attempt, tokens=self._tokens, age_s=age_s)
        self._records.metrics.queue_s.observe(age_s)
        self._records.tracing.record(
            names.PREFILL_QUEUE,
            parent=self._taken.context,
            start_ns=self._started_ns - int(age_s * 1e9),
            end_ns=self._started_ns,
        )
        self._prefill = self._records.tracing.start(
            names.PREFILL,
            parent=self._taken.context,
            kind=SpanKind.CONSUMER,
            attributes={
                names.REQUEST_ID: job.request_id,
                names.TRANSFER_ID: transfer.transfer_id,
                names.ATTEMPT: transfer.attempt,
                names.WORKER: self._records.identity.worker,
                names.PREFILL_TOKENS: self._tokens,
                names.PREFILL_QUEUE_S: age_s,
            },
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._prefill.end()

    def pulled(self, pulled: Pulled) -> None:
        """Takes what was pulled before the prefill, which finds it in memory."""
        self._pulled = pulled
        self._prefill.set_attribute(names.PREFILL_PULLED_TOKENS, pulled.tokens)

    def prefilled(self, prefill_s: float, prefilled: Prefilled) -> None:
        metrics, cached_tokens, on_disk = self._records.metrics, prefilled.cached_tokens, prefilled.read_back
        metrics.prefill_s.observe(prefill_s)
        metrics.tokens.inc(self._tokens - cached_tokens)
        metrics.prefix_queries.inc(self._tokens)
        metrics.prefix_hits.inc(cached_tokens)
        in_memory = cached_tokens - on_disk.tokens
        pulled = min(self._pulled.tokens, in_memory)
        metrics.hit("memory", in_memory - pulled, prefilled.saved_s * (in_memory - pulled) / max(1, in_memory))
        metrics.hit("pulled", pulled, self._pulled.saved_s)
        metrics.hit("disk", on_disk.tokens, on_disk.saved_s)
        self._prefill.set_attribute(names.PREFILL_CACHED_TOKENS, cached_tokens)

    def given_up(self, code: FailureCode, reason: str) -> None:
        log.warning("job_failed", request_id=self._taken.job.request_id, code=code, reason=reason)
        given_up = code in _GIVEN_UP_RESULTS
        self._records.metrics.job(code if given_up else "failed")
        self._prefill.set_attribute(names.ERROR_TYPE, code)
        if not given_up:
            self._prefill.set_status(StatusCode.ERROR, reason)

    def sending(self) -> None:
        """Begins the span of the KV on its way, which began with the prefill."""
        self._send = self._records.tracing.start(
            names.KV_SEND, parent=self._taken.context, kind=SpanKind.PRODUCER, start_ns=self._started_ns
        )

    def sent(self, report: SendReport) -> None:
        source, destination = self._records.identity.site, self._taken.job.decode_site
        self._records.sends.sent(source, destination, sent_bytes=report.bytes, blocked_s=report.blocked_s)
        self._records.metrics.job("done")
        self._send.set_attributes(
            {
                names.KV_BYTES: report.bytes,
                names.KV_FRAMES: report.frames,
                names.KV_LOSSY_FRAMES: report.lossy_frames,
                names.KV_GOODPUT: report.goodput_bytes_per_s,
            }
        )

    def not_sent(self, code: FailureCode, reason: str) -> None:
        given_up = code in _GIVEN_UP_RESULTS
        self._records.metrics.job(code if given_up else "failed")
        self._send.set_attribute(names.ERROR_TYPE, code)
        if not given_up:
            self._send.set_status(StatusCode.ERROR, reason)

    def over(self) -> None:
        self._send.end()
