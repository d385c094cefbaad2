"""Decode worker as a process: the core's events come in from the bus, its instructions go out to engine, lane and bus."""

import asyncio
import contextlib
import time
from functools import partial

from nats.aio.msg import Msg
from opentelemetry import context as trace_context

from prfaas.bus.bulk import BulkLane
from prfaas.bus.errors import RemoteError
from prfaas.capacity.observed import RecentMean
from prfaas.contracts import subjects
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.terms import FinishReason, Role
from prfaas.contracts.to_decode import AskRunning, CancelGenerate, Generate, PrefillProgress
from prfaas.contracts.to_gateway import GenerateAccepted, GenerateRefused, Running, Started
from prfaas.contracts.to_scheduler import Heartbeat, KVDisagreed
from prfaas.contracts.wire import decode
from prfaas.process.incarnation import new_incarnation
from prfaas.process.runner import ServiceContext
from prfaas.sealing.keys import read_hash_key
from prfaas.telemetry.fault_points import FaultPoint, reach
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.metrics.decode import DecodeMetrics
from prfaas.telemetry.metrics.transfer import watch_bucket
from prfaas.transfer.bucket_keeper import KVBucketKeeper
from prfaas.worker.block_announcer import BlockAnnouncer
from prfaas.worker.engine_loading import load_engine
from prfaas.worker.faults import fault_text
from prfaas.worker.lifecycle import WorkerLifecycle
from prfaas_decode_worker.admission import Limits
from prfaas_decode_worker.attempt import Attempts
from prfaas_decode_worker.batch import Batch
from prfaas_decode_worker.config import DecodeWorkerConfig
from prfaas_decode_worker.constraints import Constraints
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
from prfaas_decode_worker.gateway_watch import GatewayWatch
from prfaas_decode_worker.outbox import Outbox
from prfaas_decode_worker.prefixes import KeptPrefixes
from prfaas_decode_worker.service_core import DecodeCore
from prfaas_decode_worker.spans import RequestSpans
from prfaas_decode_worker.text import load_grammar_tokenizer, load_vocabulary

TICK_S = 0.1

log = get_logger(__name__)


class DecodeWorkerService:
    def __init__(self, config: DecodeWorkerConfig, context: ServiceContext) -> None:
        self._config = config
        self._context = context
        self._incarnation = new_incarnation()
        self._metrics = DecodeMetrics(context.registry, config.engine.model_name)
        self._spans = RequestSpans(context.tracing, config.name)
        self._answers: dict[str, asyncio.Future[GenerateAccepted | GenerateRefused]] = {}
        self._outbox = Outbox(config.site, config.name, self._give_up)
        self._idle = asyncio.Event()
        """Set while the worker has no request."""
        self._keepers: list[KVBucketKeeper] = []
        self._batch: Batch | None = None
        self._output_tokens = RecentMean()
        self.lifecycle = WorkerLifecycle(config.identity, context, self, movable=config.movable)

    async def start(self) -> None:
        config, context = self._config, self._context
        # The engine: weights take longest, and nothing works without it.
        self._engine = await load_engine(config.engine)
        # Before anything is connected: a large vocabulary takes seconds, in which no connection could be kept alive.
        vocabulary = await asyncio.to_thread(load_vocabulary, config.engine.model)
        grammar_tokenizer = await asyncio.to_thread(load_grammar_tokenizer, config.engine.model)
        self._description = self._engine.describe()
        # Connections, and the bucket that KV comes through.
        assert config.bulk is not None
        connections = await self.lifecycle.connect(config.control, config.bulk)
        bus = connections.bus
        await self._keep_buckets(connections.lane)
        # The core, and what carries out its instructions.
        self._core = DecodeCore(
            config.name,
            self._incarnation,
            config.engine.model_name,
            Limits(config.slots, config.coming, config.waiting, self._description.max_context_tokens, config.cache_mib << 20),
            self._description.eos_token_ids,
            vocabulary,
            self._engine.sequence_bytes,
        )
        admission = self._core.admission
        self._metrics.watch(
            running=lambda: len(admission.batch),
            waiting=lambda: len(admission.requests) - len(admission.batch),
            cache_usage_ratio=lambda: admission.cache_bytes / admission.limits.cache_bytes,
        )
        blocks = BlockAnnouncer(bus, config.identity, incarnation=self._incarnation, sites=[config.site])
        kept = KeptPrefixes(
            self._engine,
            config.prefix_cache_mib << 20,
            blocks.changed,
            site=config.site,
            hash_key=read_hash_key(config.block_hash_key_file),
        )
        loop = asyncio.get_running_loop()
        self._constraints = Constraints(grammar_tokenizer, partial(loop.call_soon_threadsafe, self._wake_batch))
        self._attempts = Attempts(config, context, connections, kept, self._handle, self._distrust)
        self._batch = Batch(
            self._engine,
            self._core,
            sequences=self._attempts.sequences,
            metrics=self._metrics,
            tell=self._handle,
            flushed=self._outbox.join,
            constraints=self._constraints,
        )
        # Work comes in only now that it can be done.
        await blocks.start()
        context.tasks.spawn("announce blocks", blocks.run())
        context.tasks.spawn("publish", self._outbox.run(bus))
        context.tasks.spawn("batch", self._batch.run())
        context.tasks.spawn("tick", self._tick())
        context.tasks.spawn("watch gateways", GatewayWatch(bus, config.site, self._core.requests, self._give_up).run())
        progress = subjects.progress_from(subjects.prefill_progress(config.site, config.name), "*", "*")
        await bus.subscribe_raw(progress, self._hear_progress)
        cancels = subjects.cancel_generate(config.site, config.name)
        await bus.subscribe(cancels, CancelGenerate, lambda cancel: self._give_up(cancel.request_id))
        await bus.serve(subjects.decode_alive(config.site, config.name), AskRunning, self._say_running)
        await bus.serve(subjects.generate(config.site, config.name), Generate, self._generate)
        await self.lifecycle.announce([config.site], self._heartbeat)

    async def _keep_buckets(self, lane: BulkLane) -> None:
        config, context = self._config, self._context
        self._keepers = keepers = [
            KVBucketKeeper(lane, bucket, max_bytes=size, ttl_s=config.bucket_ttl_s) for bucket, size in config.buckets()
        ]
        for keeper in keepers:
            await keeper.start()
            context.tasks.spawn("keep bucket", keeper.run())
        watch_bucket(
            context.registry,
            config.site,
            stored_bytes=lambda: sum(keeper.stored_bytes for keeper in keepers),
            leaked_bytes=lambda: sum(keeper.leaked_bytes for keeper in keepers),
            reclaimed_messages=lambda: sum(keeper.reclaimed_messages for keeper in keepers),
        )

    def ready(self) -> str | None:
        return self.lifecycle.ready()

    async def drain(self, timeout_s: float) -> None:
        await self.lifecycle.drain()

    async def stop(self) -> None:
        if self._batch is not None:
            self._batch.shut_down()
        await self.lifecycle.close()

    # ---- what the lifecycle calls

    def problem(self) -> str | None:
        """The worker needs the site's KV buckets. It needs no gateway, scheduler or prefill worker: they may start later."""
        return next((keeper.problem for keeper in self._keepers if keeper.problem), None)

    async def finish_work(self) -> None:
        self._handle(DrainAsked(time.monotonic()))
        await self._idle.wait()
        await self._outbox.join()

    def resume_work(self) -> None:
        self._handle(DrainGivenUp(time.monotonic()))

    async def leave(self) -> None:
        """Holds nothing of others."""

    # ---- events in

    async def _generate(self, generate: Generate) -> GenerateAccepted | GenerateRefused:
        request_id = generate.request_id
        answer: asyncio.Future[GenerateAccepted | GenerateRefused] = asyncio.get_running_loop().create_future()
        if request_id not in self._core.requests:
            self._spans.arrived(generate, trace_context.get_current())
        self._answers[request_id] = answer
        try:
            self._handle(GenerateAsked(time.monotonic(), generate))
            reach(FaultPoint.ACCEPTED, request_id)
        finally:
            self._answers.pop(request_id, None)
        if not answer.done():
            self._spans.broken(request_id)
            raise RemoteError(FailureCode.INTERNAL, f"request {request_id!r} could not be taken; the worker's log says why")
        return answer.result()

    async def _say_running(self, asked: AskRunning) -> Running:
        events = {
            request_id: request.events_sent
            for request_id, request in self._core.requests.items()
            if request.generate.gateway == asked.gateway and request.generate.gateway_incarnation == asked.gateway_incarnation
        }
        self._outbox.resend(asked.resend, subjects.events(self._config.site, asked.gateway))
        return Running(incarnation=self._incarnation, events=events)

    def _hear_progress(self, message: Msg) -> None:
        prefill_site = message.subject.split(".")[-2]
        self._attempts.hear(prefill_site, decode(message.data, PrefillProgress))

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
        if self._core.requests:
            self._idle.clear()
        else:
            self._idle.set()

    def _carry_out(self, order: Instruction) -> None:
        assert self._batch is not None
        match order:
            case Answer(request_id, answer):
                self._answers.pop(request_id).set_result(answer)
                if isinstance(answer, GenerateAccepted):
                    self._begin_grammar(request_id)
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

    def _begin_grammar(self, request_id: str) -> None:
        request = self._core.requests.get(request_id)
        if request is not None and request.generate.sampling.grammar:
            self._constraints.begin(request_id, request.generate.sampling.grammar)

    def _wake_batch(self) -> None:
        if self._batch is not None:
            self._batch.wake()

    def _release(self, release: Release) -> None:
        assert self._batch is not None
        # All are done, the last one first, even when another one raises: nothing of the request may stay.
        with contextlib.ExitStack() as parts:
            parts.callback(self._count_end, release)
            parts.callback(self._outbox.end, release.request_id)
            parts.callback(self._spans.released, release)
            parts.callback(self._attempts.release, release)
            parts.callback(self._batch.release, release.request_id)

    def _count_end(self, release: Release) -> None:
        self._metrics.ended(release.ended)
        if release.ended in (FinishReason.STOP, FinishReason.LENGTH):
            self._output_tokens.observe(release.completion_tokens)
        if release.decode_s:
            self._metrics.decode_s.observe(release.decode_s)
        report = release.report
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

    def _distrust(self, news: KVDisagreed) -> None:
        self._outbox.put(TellScheduler(news))

    def _heartbeat(self) -> Heartbeat:
        assert self._batch is not None
        admission = self._core.admission
        return Heartbeat(
            site=self._config.site,
            worker=self._config.name,
            incarnation=self._incarnation,
            role=Role.DECODE,
            model=self._config.engine.model_name,
            fingerprint=self._description.fingerprint,
            max_context_tokens=self._description.max_context_tokens,
            running=len(admission.batch),
            slots=admission.limits.slots,
            waiting=len(admission.requests) - len(admission.batch),
            waiting_limit=admission.limits.coming + admission.limits.waiting,
            step_points=self._batch.observed.points(),
            output_tokens=self._output_tokens.value,
            cache_usage=round(min(1.0, admission.cache_bytes / admission.limits.cache_bytes), 2),
            movable=self.lifecycle.movable,
            draining=self.lifecycle.leaving,
        )
