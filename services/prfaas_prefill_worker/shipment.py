"""One job from taken to shipped: prefill on the engine's thread, its KV into the writer, the tail beside the next job."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor

from opentelemetry.trace import SpanKind
from opentelemetry.trace.status import StatusCode

from prfaas.bus.bulk import BulkLane
from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError
from prfaas.bus.taken_jobs import TakenJob
from prfaas.contracts import subjects
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.to_decode import PrefillDone, PrefillFailed, PrefillProgress, PrefillStarted
from prfaas.contracts.to_probe import TransferMeasured
from prfaas.engine.protocol import Engine, PrefillCancelled
from prfaas.kvcache.layout import KVPiece
from prfaas.kvcache.prefix_cache import Changes, PrefixCache
from prfaas.link.config import LinkConfig
from prfaas.link.link import Link
from prfaas.process.tasks import Tasks
from prfaas.telemetry import names
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.metrics import PrefillMetrics, SendMetrics
from prfaas.telemetry.tracing import Tracing
from prfaas.transfer.errors import TransferError
from prfaas.transfer.sender import KVSender
from prfaas.worker.faults import failure_code, fault_text
from prfaas_prefill_worker.leases import give_back, keep_leased
from prfaas_prefill_worker.service_core import PrefillCore, PrefillEnded, Refuse, Run

log = get_logger(__name__)


class Shipments:
    """Runs jobs one at a time, and lets the last frames of up to `tails` earlier ones leave meanwhile."""

    def __init__(
        self,
        *,
        site: str,
        worker: str,
        bus: ControlBus,
        lane: BulkLane,
        engine: Engine,
        thread: Executor,
        prefix_cache: PrefixCache,
        cache_changed: Callable[[Changes], None],
        core: PrefillCore,
        tasks: Tasks,
        tracing: Tracing,
        metrics: PrefillMetrics,
        send_metrics: SendMetrics,
        link: LinkConfig,
        unsent_bytes: int,
        idle_timeout_s: float,
        lossy_kv: bool,
        tails: int,
    ) -> None:
        self._site = site
        self._worker = worker
        self._bus = bus
        self._lane = lane
        self._engine = engine
        self._layout = engine.describe().layout
        self._thread = thread
        self._prefix_cache = prefix_cache
        """Of the engine's thread."""
        self._cache_changed = cache_changed
        self._core = core
        self._tasks = tasks
        self._tracing = tracing
        self._metrics = metrics
        self._send_metrics = send_metrics
        self._link_config = link
        self._links: dict[str, Link] = {}
        """By decode site: all transfers of a link share one window and one budget."""
        self._leasing: dict[str, asyncio.Task[None]] = {}
        self._unsent_bytes = unsent_bytes
        self._idle_timeout_s = idle_timeout_s
        self._lossy_kv = lossy_kv
        self._room = asyncio.Semaphore(tails)
        self._tails: set[asyncio.Task[None]] = set()

    def open_links(self, decode_sites: Iterable[str]) -> None:
        """Before there is something to send: the first transfer finds its lease."""
        for decode_site in decode_sites:
            self._link_to(decode_site)

    async def leave_links(self) -> None:
        """Nothing will be sent any more."""
        for decode_site, leasing in self._leasing.items():
            leasing.cancel()
            await asyncio.wait([leasing])
            await give_back(self._bus, site=self._site, worker=self._worker, destination=decode_site)

    async def refuse(self, taken: TakenJob, refuse: Refuse) -> None:
        log.info("job_refused", request_id=refuse.job.request_id, code=refuse.code, reason=refuse.message)
        self._metrics.job("redelivered" if refuse.code == FailureCode.WORKER_LOST else refuse.code)
        if not refuse.silent:
            await self._tell(taken, self._failure(taken, refuse.code, refuse.message))
        await taken.ack()

    async def fail(self, taken: TakenJob, error: Exception) -> None:
        """Ends a job that could not be begun, for a reason that nothing foresaw."""
        log.error("job_broke", request_id=taken.job.request_id, attempt=taken.job.transfer.attempt, exc_info=error)
        self._metrics.job("failed")
        await self._tell(taken, self._failure(taken, FailureCode.INTERNAL, fault_text(error)))
        await taken.ack()

    async def run(self, taken: TakenJob, run: Run) -> None:
        """Returns when the next job may be prefilled."""
        job, transfer = run.job, run.job.transfer
        log.info("job_taken", request_id=job.request_id, attempt=transfer.attempt, tokens=len(run.token_ids), age_s=taken.age_s)
        now_ns = time.time_ns()
        self._metrics.queue_s.observe(taken.age_s)
        self._tracing.record(names.PREFILL_QUEUE, parent=taken.context, start_ns=now_ns - int(taken.age_s * 1e9), end_ns=now_ns)
        due_at = time.monotonic() + run.timeout_s
        span = self._tracing.start(
            names.PREFILL,
            parent=taken.context,
            kind=SpanKind.CONSUMER,
            attributes={
                names.REQUEST_ID: job.request_id,
                names.TRANSFER_ID: transfer.transfer_id,
                names.ATTEMPT: transfer.attempt,
                names.WORKER: self._worker,
                names.PREFILL_TOKENS: len(run.token_ids),
                names.PREFILL_QUEUE_S: taken.age_s,
            },
        )
        writer = await KVSender.open(
            self._lane,
            transfer,
            self._layout,
            deadline_s=run.timeout_s,
            link=self._link_to(job.decode_site),
            tenant=job.tenant,
            idle_timeout_s=self._idle_timeout_s,
            buffer_bytes=self._unsent_bytes,
            lossy=self._lossy_kv,
        )
        started = PrefillStarted(
            transfer_id=transfer.transfer_id, attempt=transfer.attempt, worker=self._worker, queue_s=taken.age_s
        )
        await self._tell(taken, started)
        started_s = time.monotonic()
        loop = asyncio.get_running_loop()
        try:
            cached_tokens = await loop.run_in_executor(
                self._thread,
                self._prefill,
                loop,
                run,
                writer.put,
                lambda: self._core.cancelled(job) or time.monotonic() >= due_at,
            )
        except PrefillCancelled:
            late = time.monotonic() >= due_at
            ended = FailureCode.EXPIRED if late else FailureCode.CANCELLED
            span.set_attribute(names.ERROR_TYPE, ended)
            await self._give_up(taken, writer, ended, "the decode worker stopped waiting")
        except Exception as error:  # an engine raises more than EngineError: torch's own, MemoryError; they end this job only
            code = failure_code(error)
            span.set_attribute(names.ERROR_TYPE, code)
            span.set_status(StatusCode.ERROR, fault_text(error))
            await self._give_up(taken, writer, code, fault_text(error))
        else:
            prefill_s = time.monotonic() - started_s
            # What the link made it wait for is no part of T_prefill: a policy would take a slow link for a slow machine.
            computed_tokens = len(run.token_ids) - cached_tokens
            self._core.handle(PrefillEnded(computed_tokens, prefill_s - writer.blocked_s))
            self._metrics.prefill_s.observe(prefill_s)
            self._metrics.tokens.inc(computed_tokens)
            self._metrics.prefix_queries.inc(len(run.token_ids))
            self._metrics.prefix_hits.inc(cached_tokens)
            span.set_attribute(names.PREFILL_CACHED_TOKENS, cached_tokens)
            done = PrefillDone(
                transfer_id=transfer.transfer_id,
                attempt=transfer.attempt,
                worker=self._worker,
                prefill_s=prefill_s,
                ended_unix_s=time.time(),
            )
            await self._tell(taken, done)
            await self._room.acquire()
            tail = self._tasks.spawn(f"tail {transfer.object_name}", self._finish(taken, writer, cached_tokens, now_ns))
            self._tails.add(tail)
            tail.add_done_callback(self._tails.discard)
        finally:
            span.end()

    async def settled(self) -> None:
        """Returns when no transfer is under way any more."""
        while self._tails:
            await asyncio.wait(self._tails)

    def _prefill(
        self, loop: asyncio.AbstractEventLoop, run: Run, on_piece: Callable[[KVPiece], None], cancelled: Callable[[], bool]
    ) -> int:
        """On the engine's thread. Returns how many tokens were cached."""
        try:
            with self._prefix_cache.pin(run.token_ids) as prefix:
                from_token = run.job.transfer.from_token
                self._engine.prefill(run.token_ids, on_piece, cancelled, prefix=prefix, from_token=from_token)
                return prefix.cached_tokens
        finally:
            loop.call_soon_threadsafe(self._cache_changed, self._prefix_cache.take_changes())

    async def _finish(self, taken: TakenJob, writer: KVSender, cached_tokens: int, started_ns: int) -> None:
        job = taken.job
        span = self._tracing.start(names.KV_SEND, parent=taken.context, kind=SpanKind.PRODUCER, start_ns=started_ns)
        try:
            report = await writer.close(cached_tokens=cached_tokens)
            self._send_metrics.sent(self._site, job.decode_site, sent_bytes=report.bytes, blocked_s=report.blocked_s)
            span.set_attributes({names.KV_BYTES: report.bytes, names.KV_FRAMES: report.frames})
            span.set_attribute(names.KV_LOSSY_FRAMES, report.lossy_frames)
            span.set_attribute(names.KV_GOODPUT, report.goodput_bytes_per_s)
            self._metrics.job("done")
            await self._report(job.decode_site)
        except Exception as error:
            code = error.code if isinstance(error, TransferError) else FailureCode.INTERNAL
            span.set_attribute(names.ERROR_TYPE, code)
            span.set_status(StatusCode.ERROR, fault_text(error))
            self._metrics.job("failed")
            if not self._core.cancelled(job):
                await self._tell(taken, self._failure(taken, code, fault_text(error)))
        finally:
            span.end()
            self._room.release()
            await taken.ack()

    async def _give_up(self, taken: TakenJob, writer: KVSender, code: FailureCode, message: str) -> None:
        log.warning("job_failed", request_id=taken.job.request_id, code=code, reason=message)
        self._metrics.job(code if code in (FailureCode.CANCELLED, FailureCode.EXPIRED) else "failed")
        await writer.abort(message)
        if code is not FailureCode.CANCELLED:
            await self._tell(taken, self._failure(taken, code, message))
        await taken.ack()

    def _failure(self, taken: TakenJob, code: FailureCode, message: str) -> PrefillFailed:
        transfer = taken.job.transfer
        return PrefillFailed(
            transfer_id=transfer.transfer_id, attempt=transfer.attempt, worker=self._worker, code=code, message=message
        )

    async def _tell(self, taken: TakenJob, progress: PrefillProgress) -> None:
        """Best effort: what a decode worker does not hear, its deadline tells it."""
        try:
            await self._bus.publish(taken.job.reply_to, progress, parent=taken.context)
        except Exception as error:  # beside the bus's own: a reply subject of the job that is none
            log.warning("progress_not_sent", request_id=taken.job.request_id, reason=fault_text(error))

    async def _report(self, decode_site: str) -> None:
        """To the site's bandwidth probe, if there is one: what the link delivered lately, of all its transfers."""
        goodput = self._links[decode_site].core.estimate.goodput_bytes_per_s
        if decode_site != self._site and goodput:
            with contextlib.suppress(BusError):
                measured = TransferMeasured(destination=decode_site, goodput_bytes_per_s=goodput)
                await self._bus.publish(subjects.probe_transfers(self._site), measured)

    def _link_to(self, decode_site: str) -> Link:
        """Within the site nobody shares it out."""
        if decode_site not in self._links:
            remote = decode_site != self._site
            self._links[decode_site] = link = Link(self._link_config, leased=remote)
            if remote:
                leasing = keep_leased(link, self._bus, site=self._site, worker=self._worker, destination=decode_site)
                self._leasing[decode_site] = self._tasks.spawn(f"leases to {decode_site}", leasing)
        return self._links[decode_site]
