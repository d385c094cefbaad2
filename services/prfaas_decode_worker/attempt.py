"""Attempts to get a request's KV: a fresh sequence, a receiver, a prefill job, and how each ended, whichever way comes first."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from opentelemetry.trace import Span, SpanKind
from opentelemetry.trace.status import StatusCode

from prfaas.contracts import subjects
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.kv import TransferReport
from prfaas.contracts.to_decode import PrefillDispatched, PrefillDone, PrefillFailed, PrefillProgress, PrefillStarted
from prfaas.contracts.to_scheduler import KVDisagreed
from prfaas.process.runner import ServiceContext
from prfaas.telemetry import names
from prfaas.telemetry.fault_points import FaultPoint, reach
from prfaas.telemetry.faults import FAULTS
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.metrics.audit import AuditMetrics
from prfaas.telemetry.metrics.transfer import TransferMetrics
from prfaas.telemetry.wall_clock import unix_s
from prfaas.transfer.direct_inbox import DirectInbox
from prfaas.transfer.errors import TransferError
from prfaas.transfer.receiver import KVReceiver
from prfaas.worker.faults import failure_code, fault_text
from prfaas.worker.site_connections import SiteConnections
from prfaas_decode_worker.audits import Audited, Audits, teeing
from prfaas_decode_worker.config import DecodeWorkerConfig
from prfaas_decode_worker.events import (
    AttemptFailed,
    AttemptVerified,
    BeginAttempt,
    EndAttempt,
    Event,
    PrefillTimed,
    Release,
    RequestBroken,
    WorkerAnswered,
)
from prfaas_decode_worker.job_queues import JobQueues
from prfaas_decode_worker.prefill_jobs import PrefillJobs
from prfaas_decode_worker.prefill_watch import Loss, PrefillWatch
from prfaas_decode_worker.prefill_watch_core import Holder
from prfaas_decode_worker.prefixes import KeptPrefixes
from prfaas_decode_worker.running_attempt import Attempt
from prfaas_decode_worker.spans import describe_transfer

ABORT_REASON_S = 0.5
"""Wait for the reason why a prefill worker gave up, after its frames have ended: it comes by another connection."""

_INBOX_FAILURES = (FailureCode.BROKER, FailureCode.TIMEOUT)
"""Codes with which an attempt fails whose inbox cannot be reached, such as for want of a permission."""

log = get_logger(__name__)


class Attempts:
    """Attempts of a worker. The core is told of each at most once, by AttemptVerified or AttemptFailed."""

    def __init__(
        self,
        config: DecodeWorkerConfig,
        context: ServiceContext,
        connections: SiteConnections,
        kept: KeptPrefixes,
        tell: Callable[[Event], None],
        distrust: Callable[[KVDisagreed], None],
    ) -> None:
        """`tell` hears of each attempt's end, `distrust` of each site whose KV was found wrong."""
        self._config = config
        self._site = config.site
        self._lane = connections.lane
        self._engine = kept.engine
        self._layout = kept.engine.describe().layout
        self._inbox = DirectInbox(self._lane, subjects.kv_bucket(self._site, self._site))
        self._jobs = PrefillJobs(config, connections.bus, kept.engine.describe())
        queues = JobQueues(self._jobs.queue, self._site, kept.engine.describe().model)
        self._watch = PrefillWatch(connections.bus, queues, self._site)
        self._kept = kept
        self._tasks = context.tasks
        self._tracing = context.tracing
        self._metrics = TransferMetrics(context.registry)
        metrics = AuditMetrics(context.registry)
        self._audits = Audits(config, self._jobs, self._lane, self._layout, self._tasks, metrics, distrust)
        self._tell = tell
        self._running: dict[str, tuple[Attempt, asyncio.Task[None]]] = {}
        """Current attempt and its task, by request."""
        self._transfers: dict[str, Attempt] = {}
        """The same attempts by transfer."""
        self.sequences: dict[str, Any] = {}
        """Sequence of the verified attempt, by request."""

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
        task = self._tasks.spawn(f"attempt {order.transfer_id}.{order.attempt}", self._guarded(attempt))
        self._running[order.request_id] = attempt, task
        self._transfers[order.transfer_id] = attempt

    def end(self, order: EndAttempt) -> None:
        """Stops the attempt and its prefill. Its receiver is closed, its object deleted."""
        attempt, task = self._running.pop(order.request_id)
        self._transfers.pop(attempt.order.transfer_id, None)
        assert attempt.order.attempt == order.attempt
        if not attempt.settled:
            attempt.settled = True
            self._count_failure(attempt, FailureCode.CANCELLED)
            task.cancel()
        if attempt.prefill is not None:
            begun = attempt.order
            cancel = self._jobs.cancel(begun.request_id, begun.prefill_site, begun.transfer_id, begun.attempt)
            self._tasks.spawn("cancel prefill", cancel)

    def release(self, release: Release) -> None:
        """Forgets a request that is over. Only now is it sure that its prefill's times are known, so its span ends here."""
        self.sequences.pop(release.request_id, None)
        if release.report.frames:
            self._metrics.verified(release.prefill_site, self._site, release.report, release.times.residual_s)
        found = self._running.pop(release.request_id, None)
        if found is None:
            return
        attempt, _ = found
        self._transfers.pop(attempt.order.transfer_id, None)
        if attempt.verified_ns:
            describe_transfer(attempt.span, release)
            attempt.span.end(attempt.verified_ns)

    def hear(self, prefill_site: str, progress: PrefillProgress) -> None:
        """Takes progress from workers of the attempt's own prefill site only, who show by the nuid that they have its job.

        `prefill_site`: from the subject, on which the server lets that site's workers alone publish."""
        if prefill_site == self._site and self._audits.hear(progress):
            return
        attempt = self._transfers.get(progress.transfer_id)
        if attempt is None or attempt.order.attempt != progress.attempt:
            FAULTS.late[type(progress).__name__] += 1
            return
        if not attempt.may_report(prefill_site, progress.nuid):
            FAULTS.foreign[type(progress).__name__] += 1
            log.warning("progress_of_another", transfer=progress.transfer_id, from_site=prefill_site, worker=progress.worker[:64])
            return
        match progress:
            case PrefillDispatched(worker=worker, incarnation=incarnation):
                attempt.holding.held_by(worker, incarnation)
            case PrefillStarted(queue_s=queue_s, worker=worker, incarnation=incarnation, direct=direct):
                attempt.queue_s, attempt.holding.computing = queue_s, True
                attempt.holding.held_by(worker, incarnation)
                attempt.kv_leaves(direct=direct)
            case PrefillDone(prefill_s=prefill_s, ended_unix_s=ended_unix_s, chunks=chunks, direct=direct):
                attempt.kv_leaves(direct=direct)
                order, attempt.holding.computing = attempt.order, False
                now_s, queue_s = time.monotonic(), attempt.queue_s
                self._tell(PrefillTimed(now_s, order.request_id, order.attempt, queue_s, prefill_s, ended_unix_s, chunks))
            case PrefillFailed():
                if not attempt.prefill_failed.done():
                    attempt.prefill_failed.set_result(progress)

    async def _guarded(self, attempt: Attempt) -> None:
        """Ends the request when an attempt cannot even say how it failed. The task's own end would be the process's."""
        try:
            await self._run(attempt)
        except Exception as error:
            log.error("attempt_broke", request_id=attempt.order.request_id, exc_info=error)
            self._tell(RequestBroken(time.monotonic(), attempt.order.request_id, fault_text(error)))

    async def _run(self, attempt: Attempt) -> None:
        order = attempt.order
        report: TransferReport | None = None
        audited: Audited | None = None
        try:
            # What is here already.
            sequence = self._engine.reserve(len(order.token_ids), order.total_tokens)
            if not order.token_ids:
                self._verified(attempt, sequence)
                return
            from_token = await self._kept.install(sequence, order.token_ids, order.prefill_site, order.cache_scope)
            worker = order.prefill_worker
            if worker is not None and not await self._jobs.queue.is_there(order.prefill_site, worker):
                worker = None  # it went before the scheduler could know: then any that is free
            attempt.prefill = prefill = self._jobs.prefill(
                order.request_id,
                order.transfer_id,
                order.attempt,
                order.prefill_site,
                order.token_ids,
                from_token=from_token,
                tenant=order.tenant,
                timeout_s=order.timeout_s,
                lossy=self._config.engine.lossy_kv,
                cache_scope=order.cache_scope,
                # Another attempt takes the way that the server stores.
                inbox=self._inbox if order.attempt == 1 else None,
            )
            audited = self._audits.draw_for(prefill)
            attempt.receiver = receiver = KVReceiver(
                self._lane,
                prefill.transfer,
                self._layout,
                teeing(partial(self._engine.install, sequence), audited),
                timeout_s=order.timeout_s,
                idle_timeout_s=self._config.idle_timeout_s,
                secret=prefill.secret,
                inbox=None if prefill.transfer.direct_inbox is None else self._inbox,
            )
            # Each is a round trip to a server, so the job does not wait for the receiver: frames that are stored before it is
            # there are read all the same, and the sweep takes no object as young as that.
            opening = asyncio.ensure_future(receiver.open())
            try:
                sequence_number = await self._jobs.submit(
                    prefill, worker=worker, admitted=order.admitted, pull=order.pull, parent=attempt.span
                )
            finally:
                await opening
            reach(FaultPoint.JOB_STORED, order.request_id, order.attempt)
            report = await self._await_kv(attempt, receiver, sequence_number)
            if report is not None:
                self._verified(attempt, sequence)
        except Exception as error:  # an engine raises more than EngineError: torch's own, MemoryError; they end this attempt only
            self._failed(attempt, failure_code(error), fault_text(error))
        finally:
            if audited is not None and report is not None:
                holder = attempt.holding.holder
                self._audits.begin(audited, "" if holder is None else holder.name)
            elif audited is not None:
                self._audits.drop(audited)
            if attempt.receiver is not None:
                await self._after(attempt, "receiver_not_closed", attempt.receiver.close())
            elif attempt.prefill is not None:
                self._inbox.release(attempt.prefill.transfer.nuid)
        if report is not None and not report.lossy_frames:
            keeping = self._kept.keep(sequence, order.token_ids, order.prefill_site, order.cache_scope)
            await self._after(attempt, "prefix_not_kept", keeping)

    async def _after(self, attempt: Attempt, failed: str, work: Coroutine[Any, Any, None]) -> None:
        """Does what the request does not need any more: an error is only logged, as `failed`."""
        try:
            await work
        except Exception as error:
            log.error(failed, request_id=attempt.order.request_id, reason=fault_text(error), exc_info=error)

    async def _await_kv(self, attempt: Attempt, receiver: KVReceiver, sequence_number: int) -> TransferReport | None:
        """None when the prefill failed, which the core has been told. Raises TransferError, or what `install` raised."""
        order = attempt.order
        verified = asyncio.ensure_future(receiver.verified(order.timeout_s))
        watching = self._watch.until_lost(attempt.holding, sequence_number, lambda: receiver.report().frames)
        lost = asyncio.ensure_future(watching)
        waiting: list[asyncio.Future[Any]] = [verified, attempt.prefill_failed, lost]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if verified.done() and not await self._is_explained(attempt, verified):
                return verified.result()
            if attempt.prefill_failed.done():
                self._told(attempt, attempt.prefill_failed.result())
            else:
                self._lost(attempt, lost.result())
            return None
        finally:
            verified.cancel()
            lost.cancel()

    async def _is_explained(self, attempt: Attempt, verified: asyncio.Future[TransferReport]) -> bool:
        """Returns whether the prefill worker has said why it gave up. The end of its frames may overtake what it says."""
        error = verified.exception()
        if isinstance(error, TransferError) and error.code is FailureCode.ABORTED:
            await asyncio.wait([attempt.prefill_failed], timeout=ABORT_REASON_S)
            return attempt.prefill_failed.done()
        return False

    def _told(self, attempt: Attempt, failure: PrefillFailed) -> None:
        reason = f"{failure.worker}: {failure.message}"
        if failure.code is FailureCode.WORKER_LOST and attempt.holding.computing:
            # Said by the next process of its name, which may be there before anybody has missed the one that died.
            self._lost(attempt, Loss(failure.code, reason, attempt.holding.holder))
        else:
            self._failed(attempt, failure.code, reason, failure.retry_after_s)

    def _lost(self, attempt: Attempt, loss: Loss) -> None:
        self._failed(attempt, loss.code, loss.reason, died=loss.died)
        if loss.died is not None:
            self._tasks.spawn(f"look back at {loss.died.name}", self._look_back(loss.died))

    async def _look_back(self, holder: Holder) -> None:
        """Takes the word back that a worker has died, if it answers later: its connection had been lost."""
        try:
            if await self._watch.until_back(holder):
                self._tell(WorkerAnswered(time.monotonic(), holder))
        except Exception as error:  # the task's own end would be the process's
            log.error("look_back_broke", worker=holder.name, exc_info=error)

    def _verified(self, attempt: Attempt, sequence: Any) -> None:
        if attempt.settled:
            return
        attempt.settled = True
        attempt.verified_ns = time.time_ns()
        order = attempt.order
        self.sequences[order.request_id] = sequence
        self._tell(AttemptVerified(time.monotonic(), order.request_id, order.attempt, unix_s(), attempt.report))

    def _failed(
        self, attempt: Attempt, code: str, message: str, retry_after_s: float | None = None, died: Holder | None = None
    ) -> None:
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
        self._count_failure(attempt, code)
        if attempt.is_direct and code in _INBOX_FAILURES:
            self._inbox.rest(f"{code}: {message}")
        self._tell(AttemptFailed(time.monotonic(), order.request_id, order.attempt, code, message, died, retry_after_s))

    def _count_failure(self, attempt: Attempt, code: str) -> None:
        attempt.span.set_attribute(names.ERROR_TYPE, code)
        attempt.span.set_status(StatusCode.ERROR, code)
        attempt.span.end()
        self._metrics.failed(attempt.order.prefill_site, self._site, code, attempt.report)
