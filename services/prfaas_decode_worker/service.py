"""Decode worker as a process: the core's events come in from the bus, its instructions go out to engine, lane and bus."""

import asyncio
import time

from opentelemetry import context as trace_context

from prfaas.bus.jobs import JobQueue
from prfaas.bus.presence import Announcer
from prfaas.capacity.observed import RecentMean
from prfaas.contracts import subjects
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.terms import FinishReason, Role
from prfaas.contracts.to_decode import CancelGenerate, Generate, PrefillProgress
from prfaas.contracts.to_gateway import GenerateAccepted, GenerateRefused, Started
from prfaas.contracts.to_scheduler import Heartbeat
from prfaas.engine.factory import build_engine
from prfaas.engine.weights import prepare
from prfaas.process.runner import ServiceContext
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.metrics import DecodeMetrics, TransferMetrics, watch_bucket
from prfaas.transfer.bucket_keeper import KVBucketKeeper
from prfaas.worker.block_announcer import BlockAnnouncer
from prfaas.worker.faults import fault_text
from prfaas.worker.role_change import RoleChange
from prfaas.worker.site_connections import SiteConnections
from prfaas_decode_worker.admission import Limits
from prfaas_decode_worker.attempt import Attempts
from prfaas_decode_worker.batch import Batch
from prfaas_decode_worker.config import DecodeWorkerConfig
from prfaas_decode_worker.events import (
    Answer,
    BeginAttempt,
    CancelAsked,
    DrainAsked,
    DrainGivenUp,
    Emit,
    EndAttempt,
    Event,
    GenerateAsked,
    Instruction,
    Release,
    RequestBroken,
    TellScheduler,
    Tick,
    request_id_of,
)
from prfaas_decode_worker.outbox import Outbox
from prfaas_decode_worker.prefixes import KeptPrefixes
from prfaas_decode_worker.service_core import DecodeCore
from prfaas_decode_worker.spans import RequestSpans
from prfaas_decode_worker.text import load_vocabulary

TICK_S = 0.1

log = get_logger(__name__)


class DecodeWorkerService:
    def __init__(self, config: DecodeWorkerConfig, context: ServiceContext) -> None:
        self._config = config
        self._context = context
        self._metrics = DecodeMetrics(context.registry, config.engine.model)
        self._transfer_metrics = TransferMetrics(context.registry)
        self._spans = RequestSpans(context.tracing, config.name)
        self._answers: dict[str, asyncio.Future[GenerateAccepted | GenerateRefused]] = {}
        self._outbox = Outbox(config.site, self._give_up)
        self._idle = asyncio.Event()
        """Set while no request is here."""
        self._site: SiteConnections | None = None
        self._keeper: KVBucketKeeper | None = None
        self._batch: Batch | None = None
        self._leaving = False
        self._output_tokens = RecentMean()
        self._role_change = RoleChange(config.site, config.name, Role.DECODE, config.movable, context, self)

    async def start(self) -> None:
        config, context = self._config, self._context
        assert config.bulk is not None
        files = await asyncio.to_thread(prepare, config.engine.model)
        self._engine = await asyncio.to_thread(build_engine, config.engine)
        # Before anything is connected: a large vocabulary takes seconds, in which no connection could be kept alive.
        vocabulary = await asyncio.to_thread(load_vocabulary, files.tokenizer)
        self._description = self._engine.describe()
        self._site = await SiteConnections.open(config.control, config.bulk, config.name)
        bus, lane = self._site
        self._keeper = keeper = KVBucketKeeper(lane, config.site, max_bytes=config.bucket_mib << 20, ttl_s=config.bucket_ttl_s)
        await keeper.start()
        context.tasks.spawn("keep bucket", keeper.run())
        watch_bucket(
            context.registry,
            config.site,
            stored_bytes=lambda: keeper.stored_bytes,
            leaked_bytes=lambda: keeper.leaked_bytes,
            reclaimed_messages=lambda: keeper.reclaimed_messages,
        )
        self._core = DecodeCore(
            config.name,
            config.engine.model,
            Limits(config.slots, config.waiting, self._description.max_context_tokens, config.cache_mib << 20),
            self._description.eos_token_ids,
            vocabulary,
            self._engine.sequence_bytes,
        )
        blocks = BlockAnnouncer(bus, site=config.site, worker=config.name, role=Role.DECODE, sites=[config.site])
        self._attempts = Attempts(
            site=config.site,
            worker=config.name,
            bus=bus,
            lane=lane,
            jobs=JobQueue(bus),
            engine=self._engine,
            kept=KeptPrefixes(self._engine, config.prefix_cache_mib << 20, blocks.changed),
            tasks=context.tasks,
            tracing=context.tracing,
            metrics=self._transfer_metrics,
            idle_timeout_s=config.idle_timeout_s,
            lossy_kv=config.engine.lossy_kv,
            tell=self._handle,
        )
        self._batch = Batch(
            self._engine,
            self._core,
            sequences=self._attempts.sequences,
            metrics=self._metrics,
            tell=self._handle,
            flushed=self._outbox.join,
        )
        await blocks.start()
        context.tasks.spawn("announce blocks", blocks.run())
        context.tasks.spawn("publish", self._outbox.run(bus))
        context.tasks.spawn("batch", self._batch.run())
        context.tasks.spawn("tick", self._tick())
        await bus.subscribe(subjects.prefill_progress(config.site, config.name), PrefillProgress, self._attempts.hear)
        await bus.subscribe(subjects.cancel_generate(config.site, config.name), CancelGenerate, self._cancel)
        await bus.serve(subjects.generate(config.site, config.name), Generate, self._generate)
        self._announcer = Announcer(bus, [config.site], self._heartbeat)
        await self._role_change.start(bus)
        context.tasks.spawn("announce", self._announcer.run())

    def ready(self) -> str | None:
        """The worker needs both connections, the site's KV bucket, and to be heard of. It needs no gateway, scheduler or prefill
        worker: they may start later."""
        assert self._site is not None and self._keeper is not None
        return self._site.down() or self._keeper.problem or self._announcer.problem

    async def drain(self, deadline_s: float) -> None:
        self._role_change.give_up()
        await self.finish()
        await self.withdraw()

    async def finish(self) -> None:
        # Announced first: who is refused then and asks the scheduler again is not sent here once more.
        self._leaving = True
        await self._announcer.beat()
        self._handle(DrainAsked(time.monotonic()))
        await self._idle.wait()
        await self._outbox.join()

    async def resume(self) -> None:
        self._leaving = False
        self._handle(DrainGivenUp(time.monotonic()))
        await self._announcer.beat()

    async def withdraw(self) -> None:
        await self._announcer.withdraw()

    async def stop(self) -> None:
        if self._batch is not None:
            self._batch.shut_down()
        if self._site is not None:
            await self._site.close()

    # ---- events in

    async def _generate(self, generate: Generate) -> GenerateAccepted | GenerateRefused:
        request_id = generate.request_id
        answer: asyncio.Future[GenerateAccepted | GenerateRefused] = asyncio.get_running_loop().create_future()
        if request_id not in self._core.requests:
            self._spans.arrived(generate, trace_context.get_current())
        self._answers[request_id] = answer
        try:
            self._handle(GenerateAsked(time.monotonic(), generate))
            return answer.result()
        finally:
            self._answers.pop(request_id, None)

    def _cancel(self, cancel: CancelGenerate) -> None:
        self._handle(CancelAsked(time.monotonic(), cancel.request_id))

    def _give_up(self, request_id: str) -> None:
        self._handle(CancelAsked(time.monotonic(), request_id))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._handle(Tick(time.monotonic()))

    # ---- instructions out

    def _handle(self, event: Event) -> None:
        try:
            orders = self._core.handle(event)
        except Exception as error:
            request_id = getattr(event, "request_id", None)
            log.error("event_failed", request_id=request_id, handled=type(event).__name__, exc_info=error)
            if request_id is not None and not isinstance(event, RequestBroken):
                self._handle(RequestBroken(time.monotonic(), request_id, fault_text(error)))
            return
        for order in orders:
            try:
                self._carry_out(order)
            except Exception as error:  # ends the request that the instruction is for, never the process
                request_id = request_id_of(order)
                log.error("instruction_failed", request_id=request_id, instruction=type(order).__name__, exc_info=error)
                self._handle(RequestBroken(time.monotonic(), request_id, fault_text(error)))
        self._measure()

    def _carry_out(self, order: Instruction) -> None:
        assert self._batch is not None
        match order:
            case Answer(request_id, answer):
                self._answers.pop(request_id).set_result(answer)
                if isinstance(answer, GenerateRefused) and answer.code != FailureCode.DUPLICATE:
                    self._spans.refused(request_id, answer.code)
            case BeginAttempt():
                self._attempts.begin(order, self._spans.of(order.request_id))
            case EndAttempt():
                self._attempts.end(order)
            case Emit(_, told):
                self._outbox.put(order)
                if isinstance(told, Started):
                    self._spans.joined(told.request_id)
                    self._batch.wake()
            case Release():
                self._release(order)
            case TellScheduler():
                self._outbox.put(order)

    def _release(self, release: Release) -> None:
        assert self._batch is not None
        self._metrics.ended(release.ended)
        self._attempts.release(release)
        self._batch.release(release.request_id)
        self._spans.released(release)
        if release.ended in (FinishReason.STOP, FinishReason.LENGTH):
            self._output_tokens.observe(release.completion_tokens)
        if release.decode_s:
            self._metrics.decode_s.observe(release.decode_s)
        report = release.report
        if report.frames:
            self._transfer_metrics.verified(
                release.prefill_site,
                self._config.site,
                received_bytes=report.bytes,
                frames=report.frames,
                lossy_frames=report.lossy_frames,
                reused_tokens=report.reused_tokens,
                saved_bytes=report.saved_bytes,
                duration_s=report.duration_s,
                residual_s=report.residual_s,
            )
        log.info(
            "request_ended",
            request_id=release.request_id,
            outcome=release.outcome.value,
            prefill_site=release.prefill_site,
            ended=release.ended,
            completion_tokens=release.completion_tokens,
            attempts=report.attempts,
            kv_bytes=report.bytes,
            kv_saved_bytes=report.saved_bytes,
        )

    def _measure(self) -> None:
        if self._core.requests:
            self._idle.clear()
        else:
            self._idle.set()
        running = len(self._core.rows())
        self._metrics.running.set(running)
        self._metrics.waiting.set(len(self._core.requests) - running)
        self._metrics.cache_usage_ratio.set(self._core.admission.cache_bytes / self._core.admission.limits.cache_bytes)

    def _heartbeat(self) -> Heartbeat:
        assert self._batch is not None
        admission = self._core.admission
        return Heartbeat(
            site=self._config.site,
            worker=self._config.name,
            role=Role.DECODE,
            model=self._config.engine.model,
            fingerprint=self._description.fingerprint,
            max_context_tokens=self._description.max_context_tokens,
            running=len(admission.holding),
            slots=admission.limits.slots,
            waiting=len(admission.waiting),
            waiting_limit=admission.limits.waiting,
            step_points=self._batch.observed.points(),
            output_tokens=self._output_tokens.value,
            movable=self._role_change.possible,
            draining=self._leaving,
        )
