"""One attempt to get one request's KV: a fresh sequence, a reader, a prefill job, and how it ended, whichever way comes first."""

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any

from opentelemetry.trace import Span, SpanKind
from opentelemetry.trace.status import StatusCode

from prfaas.bus.bulk import BulkLane
from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError
from prfaas.bus.jobs import JobQueue
from prfaas.contracts import subjects
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.kv import KVTransfer
from prfaas.contracts.to_decode import PrefillDone, PrefillFailed, PrefillProgress, PrefillStarted
from prfaas.contracts.to_prefill import CancelPrefill, PrefillJob
from prfaas.contracts.wire import pack_tokens
from prfaas.engine.protocol import Engine, EngineDescription
from prfaas.process.tasks import Tasks
from prfaas.telemetry import names
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.metrics import TransferMetrics, overlap_ratio
from prfaas.telemetry.tracing import Tracing
from prfaas.transfer.receiver import KVReceiver, ReaderReport
from prfaas.worker.faults import failure_code, fault_text
from prfaas_decode_worker.events import AttemptFailed, AttemptVerified, BeginAttempt, EndAttempt, Event, PrefillTimed, Release
from prfaas_decode_worker.prefixes import KeptPrefixes

REMOTE_QUEUE_S = 3.0
"""A remote site's queue answers within a few round trips of the control connection; longer, and its link is down."""

log = get_logger(__name__)


class Attempt:
    """State of one running attempt, for those who must reach it: progress messages and cancellation."""

    def __init__(self, order: BeginAttempt, span: Span) -> None:
        self.order = order
        self.span = span
        self.prefill_failed: asyncio.Future[PrefillFailed] = asyncio.get_running_loop().create_future()
        self.queue_s = 0.0
        self.settled = False
        """The core has been told how it ended, or does not want to know."""
        self.verified_ns = 0


class Attempts:
    """All attempts of a worker. The core is told of each at most once, by AttemptVerified or AttemptFailed."""

    def __init__(
        self,
        *,
        site: str,
        worker: str,
        bus: ControlBus,
        lane: BulkLane,
        jobs: JobQueue,
        engine: Engine,
        kept: KeptPrefixes,
        tasks: Tasks,
        tracing: Tracing,
        metrics: TransferMetrics,
        idle_timeout_s: float,
        lossy_kv: bool,
        tell: Callable[[Event], None],
    ) -> None:
        self._site = site
        self._worker = worker
        self._bus = bus
        self._lane = lane
        self._jobs = jobs
        self._engine = engine
        self._kept = kept
        self._description: EngineDescription = engine.describe()
        self._tasks = tasks
        self._tracing = tracing
        self._metrics = metrics
        self._idle_timeout_s = idle_timeout_s
        self._lossy_kv = lossy_kv
        self._tell = tell
        self._running: dict[str, tuple[Attempt, asyncio.Task[None]]] = {}
        """By request: the current attempt."""
        self.sequences: dict[str, Any] = {}
        """By request: the sequence of the verified attempt."""

    def begin(self, order: BeginAttempt, parent: Span) -> None:
        span = self._tracing.start(
            names.KV_TRANSFER,
            parent=parent,
            kind=SpanKind.CONSUMER,
            attributes={
                names.TRANSFER_ID: order.transfer_id,
                names.ATTEMPT: order.attempt,
                names.PREFILL_SITE: order.prefill_site,
                names.DECODE_SITE: self._site,
                names.PREFILL_TOKENS: len(order.token_ids),
            },
        )
        attempt = Attempt(order, span)
        task = self._tasks.spawn(f"attempt {order.transfer_id}.{order.attempt}", self._run(attempt))
        self._running[order.request_id] = attempt, task

    def end(self, order: EndAttempt) -> None:
        """Stops the attempt and its prefill. Its reader is closed, its object deleted."""
        attempt, task = self._running.pop(order.request_id)
        assert attempt.order.attempt == order.attempt
        if not attempt.settled:
            attempt.settled = True
            self._count_failure(attempt, FailureCode.CANCELLED, 0, 0)
            task.cancel()
        if attempt.order.token_ids:
            self._tasks.spawn("cancel prefill", self._cancel_prefill(attempt.order))

    def release(self, release: Release) -> None:
        """Forgets a request that is over. Only now is it sure that its prefill's times are known, so its span ends here."""
        self.sequences.pop(release.request_id, None)
        found = self._running.pop(release.request_id, None)
        if found is not None and found[0].verified_ns:
            span, report = found[0].span, release.report
            span.set_attributes({names.KV_BYTES: report.bytes, names.KV_FRAMES: report.frames})
            span.set_attribute(names.KV_LOSSY_FRAMES, report.lossy_frames)
            if report.duration_s > 0:
                span.set_attributes(
                    {
                        names.KV_GOODPUT: report.bytes / report.duration_s,
                        names.KV_RESIDUAL_S: report.residual_s,
                        names.KV_OVERLAP_RATIO: overlap_ratio(report.duration_s, report.residual_s),
                    }
                )
            span.end(found[0].verified_ns)

    def hear(self, progress: PrefillProgress) -> None:
        """Progress is addressed by transfer id, which is the request's own."""
        found = self._running.get(progress.transfer_id)
        if found is None or found[0].order.attempt != progress.attempt:
            return
        attempt = found[0]
        match progress:
            case PrefillStarted(queue_s=queue_s):
                attempt.queue_s = queue_s
            case PrefillDone(prefill_s=prefill_s, ended_unix_s=ended_unix_s):
                order = attempt.order
                now_s = time.monotonic()
                self._tell(PrefillTimed(now_s, order.request_id, order.attempt, attempt.queue_s, prefill_s, ended_unix_s))
            case PrefillFailed():
                if not attempt.prefill_failed.done():
                    attempt.prefill_failed.set_result(progress)

    async def _run(self, attempt: Attempt) -> None:
        order = attempt.order
        reader: KVReceiver | None = None
        report: ReaderReport | None = None
        try:
            sequence = self._engine.reserve(len(order.token_ids), order.total_tokens)
            if not order.token_ids:
                self._verified(attempt, sequence, None, 0)
                return
            from_token = await self._kept.install(sequence, order.token_ids)
            worker = order.prefill_worker
            if worker is not None and not await self._jobs.is_there(order.prefill_site, worker):
                worker = None  # it went before the scheduler could know: then whoever is free
            transfer = KVTransfer(
                transfer_id=order.transfer_id,
                attempt=order.attempt,
                bucket=subjects.kv_bucket(self._site),
                nuid=secrets.token_hex(11),
                prefill_tokens=len(order.token_ids),
                from_token=from_token,
                lossy=self._lossy_kv,
                fingerprint=self._description.fingerprint,
            )
            install = partial(self._engine.install, sequence)
            reader = await KVReceiver.open(
                self._lane,
                transfer,
                self._description.layout,
                install,
                deadline_s=order.timeout_s,
                idle_timeout_s=self._idle_timeout_s,
            )
            await self._submit(attempt, transfer, worker)
            report = await self._await_kv(attempt, reader, worker)
            if report is not None:
                self._verified(attempt, sequence, report, from_token)
        except Exception as error:  # an engine raises more than EngineError: torch's own, MemoryError; they end this attempt only
            self._failed(attempt, failure_code(error), fault_text(error))
        finally:
            if reader is not None:
                await self._after(attempt, "reader_not_closed", reader.close())
        if report is not None and not report.lossy_frames:
            await self._after(attempt, "prefix_not_kept", self._kept.keep(sequence, order.token_ids))

    async def _after(self, attempt: Attempt, failed: str, work: Coroutine[Any, Any, None]) -> None:
        """Does what the request does not need any more: an error is only logged, as `failed`."""
        try:
            await work
        except Exception as error:
            log.error(failed, request_id=attempt.order.request_id, reason=fault_text(error), exc_info=error)

    async def _submit(self, attempt: Attempt, transfer: KVTransfer, worker: str | None) -> None:
        order = attempt.order
        job = PrefillJob(
            request_id=order.request_id,
            model=self._description.model,
            transfer=transfer,
            token_ids=pack_tokens(order.token_ids),
            reply_to=subjects.prefill_progress(self._site, self._worker),
            decode_site=self._site,
            tenant=order.tenant,
            timeout_s=order.timeout_s,
        )
        remote = order.prefill_site != self._site
        await self._jobs.submit(
            order.prefill_site,
            job,
            timeout_s=min(order.timeout_s, REMOTE_QUEUE_S) if remote else order.timeout_s,
            worker=worker,
            deferred=order.deferred,
            parent=attempt.span,
        )

    async def _await_kv(self, attempt: Attempt, reader: KVReceiver, worker: str | None) -> ReaderReport | None:
        """None when the prefill failed, which the core has been told. Raises TransferError, or what `install` raised."""
        order = attempt.order
        verified = asyncio.ensure_future(reader.verified(order.timeout_s))
        waiting: list[asyncio.Future[Any]] = [verified, attempt.prefill_failed]
        gone: asyncio.Future[str] | None = None
        if worker is not None:
            # A job in a worker's own queue is nobody else's: only who sent it can see that it waits in vain.
            gone = asyncio.ensure_future(self._jobs.until_gone(order.prefill_site, worker))
            waiting.append(gone)
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if verified.done():
                return verified.result()
            if attempt.prefill_failed.done():
                failure = attempt.prefill_failed.result()
                self._failed(attempt, failure.code, f"{failure.worker}: {failure.message}")
            elif gone is not None:
                self._failed(attempt, FailureCode.WORKER_LOST, gone.result())
            return None
        finally:
            for wait in (verified, gone):
                if wait is not None:
                    wait.cancel()

    def _verified(self, attempt: Attempt, sequence: Any, report: ReaderReport | None, from_token: int) -> None:
        if attempt.settled:
            return
        attempt.settled = True
        attempt.verified_ns = time.time_ns()
        order = attempt.order
        self.sequences[order.request_id] = sequence
        verified = AttemptVerified(time.monotonic(), order.request_id, order.attempt, time.time())
        if report is not None:
            layout, tokens = self._description.layout, len(order.token_ids)
            verified = replace(
                verified,
                bytes=report.bytes,
                frames=report.frames,
                lossy_frames=report.lossy_frames,
                cached_tokens=report.cached_tokens,
                reused_tokens=from_token,
                saved_bytes=layout.total_bytes(tokens) - layout.total_bytes(tokens, from_token),
                duration_s=report.last_frame_at - report.first_frame_at,
            )
        self._tell(verified)

    def _failed(self, attempt: Attempt, code: str, message: str) -> None:
        if attempt.settled:
            return
        attempt.settled = True
        order = attempt.order
        log.warning(
            "attempt_failed",
            request_id=order.request_id,
            attempt=order.attempt,
            prefill_site=order.prefill_site,
            code=code,
            reason=message,
        )
        self._count_failure(attempt, code, 0, 0)
        self._tell(AttemptFailed(time.monotonic(), order.request_id, order.attempt, code, message))

    def _count_failure(self, attempt: Attempt, code: str, received_bytes: int, frames: int) -> None:
        attempt.span.set_attribute(names.ERROR_TYPE, code)
        attempt.span.set_status(StatusCode.ERROR, code)
        attempt.span.end()
        self._metrics.failed(attempt.order.prefill_site, self._site, result=code, received_bytes=received_bytes, frames=frames)

    async def _cancel_prefill(self, order: BeginAttempt) -> None:
        """Best effort: a prefill that does not hear of it finds its transfer dead, or its job expired."""
        try:
            cancel = CancelPrefill(transfer_id=order.transfer_id, attempt=order.attempt)
            await self._bus.publish(subjects.cancel_prefill(order.prefill_site), cancel)
        except BusError as error:
            log.warning("cancel_not_sent", request_id=order.request_id, prefill_site=order.prefill_site, reason=str(error))
