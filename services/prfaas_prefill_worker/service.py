"""The prefill worker as a process: takes jobs one after another, and announces itself."""

import asyncio
import time
from functools import partial
from pathlib import Path

from prfaas.bus.job_consumer import JobConsumer
from prfaas.bus.taken_jobs import TakenJob
from prfaas.contracts import subjects
from prfaas.contracts.terms import Role
from prfaas.contracts.to_prefill import CancelPrefill, PrefillJob
from prfaas.contracts.to_scheduler import Heartbeat
from prfaas.engine.free_memory import FreeMemory
from prfaas.kvcache.compute_speed import ComputeSpeed
from prfaas.kvcache.prefix_cache import PrefixCache
from prfaas.process.incarnation import new_incarnation
from prfaas.process.runner import ServiceContext, StartRefusedError
from prfaas.sealing.job_seal import JobSeals
from prfaas.sealing.keys import read_hash_key
from prfaas.telemetry.fault_points import FaultPoint, reach
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.metrics.clock import watch_clock
from prfaas.worker.block_announcer import BlockAnnouncer
from prfaas.worker.disk_tier.folder import DiskTierError
from prfaas.worker.disk_tier.tier import DiskTier
from prfaas.worker.engine_loading import load_engine
from prfaas.worker.engine_thread import engine_thread
from prfaas.worker.lifecycle import WorkerLifecycle
from prfaas_prefill_worker.announced_queue import SharedQueue
from prfaas_prefill_worker.config import PrefillWorkerConfig
from prfaas_prefill_worker.events import CancelHeard, JobTaken, PrefillEnded, Refuse
from prfaas_prefill_worker.prefiller import Prefiller
from prfaas_prefill_worker.prefix_metrics import PrefixMetrics
from prfaas_prefill_worker.pulls.pulls import Pulls
from prfaas_prefill_worker.readiness import Readiness
from prfaas_prefill_worker.service_core import PrefillCore
from prfaas_prefill_worker.shipment import Shipments

TAKE_TIMEOUT_S = 1.0
CLOSE_DISK_S = 5.0
"""Time at the end for what waits to be written to disk."""
WATCH_QUEUE_EVERY_S = 1.0
"""Interval of looks at the queue, the same as of announcements."""

log = get_logger(__name__)


class PrefillWorkerService:
    def __init__(self, config: PrefillWorkerConfig, context: ServiceContext) -> None:
        self._config = config
        self._context = context
        self._incarnation = new_incarnation()
        self._thread = engine_thread()
        self._disk: DiskTier | None = None
        self._pulls: Pulls | None = None
        self.lifecycle = WorkerLifecycle(config.identity, context, self, movable=config.movable)

    async def start(self) -> None:
        config, context = self._config, self._context
        # The engine: weights take longest, and nothing works without it.
        engine = await load_engine(config.engine, self._thread)
        self._description = description = engine.describe()
        self._kv_points = description.layout.size_points(description.max_context_tokens)
        seals = JobSeals(config.sealing)
        self._core = PrefillCore(
            description.model,
            description.fingerprint,
            description.max_context_tokens,
            seals.open,
            config.serves,
            engine.prefill_bytes,
        )
        self._engine = engine
        self._free_memory = FreeMemory()
        # Connections, and what stands on them.
        assert config.bulk is not None
        connections = await self.lifecycle.connect(config.control, config.bulk)
        bus = connections.bus
        blocks = BlockAnnouncer(bus, config.identity, incarnation=self._incarnation, sites=config.serves)
        hash_key = read_hash_key(config.block_hash_key_file)
        speed = ComputeSpeed()
        self._prefix_cache = PrefixCache.for_model(
            description.layout, description.chunk_tokens, config.prefix_cache_mib << 20, hash_key, compute_s=speed.seconds
        )
        prefiller = Prefiller(engine, self._thread, self._prefix_cache, speed, blocks.changed)
        self._shipments = Shipments(config, context, connections, prefiller, self._core, self._incarnation)
        self._shipments.links.open(config.serves)
        self._core.handle(PrefillEnded(*await prefiller.warm_up()))
        await self._open_disk(speed)
        PrefixMetrics(context.registry, description.model, self._prefix_cache, self._disk)
        blocks.changed(self._prefix_cache.take_changes())
        if config.cache_pulls and config.prefix_cache_mib:
            self._pulls = Pulls(config, context, connections, prefiller, self._prefix_cache, self._shipments.links)
            await self._pulls.start()
            self._shipments.pulls = self._pulls
        # Work comes in only now that it can be done.
        for decode_site in config.serves:
            cancelled = partial(self._cancel, decode_site)
            await bus.subscribe(subjects.cancel_prefill(config.site, decode_site), CancelPrefill, cancelled)
        self._queue = SharedQueue(self._core.observed)
        self._consumer = await JobConsumer.open(
            bus, config.site, description.model, config.name, incarnation=self._incarnation, serves=config.serves
        )
        self._readiness = Readiness(
            bus, config.identity, self._incarnation, description.model, self._consumer, self._core.observed
        )
        watch_clock(context.registry, lambda: self._consumer.clock.skew_s)
        await self._readiness.tell()  # whether a dispatcher answers is known before the first job is asked for
        self._working = context.tasks.spawn("work", self._work())
        context.tasks.spawn("tell readiness", self._readiness.run())
        context.tasks.spawn("tell failures again", self._shipments.repeat_failures())
        await blocks.start()
        context.tasks.spawn("announce blocks", blocks.run())
        if self._shared:
            context.tasks.spawn("watch queue", self._watch_queue())
        await self.lifecycle.announce(config.serves, self._heartbeat)

    def ready(self) -> str | None:
        return self.lifecycle.ready()

    async def drain(self, timeout_s: float) -> None:
        await self.lifecycle.drain()

    async def stop(self) -> None:
        if self._pulls is not None:
            self._pulls.close()
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._disk is not None:
            await asyncio.to_thread(self._disk.close, CLOSE_DISK_S)
        await self.lifecycle.close()

    async def _open_disk(self, speed: ComputeSpeed) -> None:
        """Opens the tier on disk, if there is one. Its blocks are worth what they take to compute: that was seen before."""
        config = self._config
        if not config.prefix_cache_disk_mib:
            return
        opened = partial(
            DiskTier,
            Path(config.prefix_cache_disk_directory),
            config.prefix_cache_disk_mib << 20,
            self._description.fingerprint,
            block_tokens=self._description.chunk_tokens,
            checkpoint_spacing=self._prefix_cache.checkpoint_spacing,
            compute_s=speed.seconds,
        )
        try:
            self._disk = await asyncio.get_running_loop().run_in_executor(self._thread, opened)
        except DiskTierError as error:
            raise StartRefusedError(str(error)) from error
        self._prefix_cache.lower = self._disk

    # What the lifecycle calls.

    def problem(self) -> str | None:
        """The worker needs its site's job queue."""
        return self._consumer.problem

    async def finish_work(self) -> None:
        await asyncio.wait([self._working])  # which a cancelled drain must not cancel
        await self._shipments.settled()

    def resume_work(self) -> None:
        if self._working.done():
            self._working = self._context.tasks.spawn("work", self._work())

    async def leave(self) -> None:
        await self._shipments.links.leave()

    # The queue.

    async def _work(self) -> None:
        while True:
            leaving = self.lifecycle.leaving
            self._readiness.set(ready=not leaving)
            taken = await (self._consumer.take_last if leaving else self._consumer.take)(TAKE_TIMEOUT_S)
            if taken is None:
                self._queue.idle()
                if leaving and self.lifecycle.leaving and not await self._readiness.tell():
                    return
                continue
            self._readiness.set(ready=False)
            try:
                await self._do(taken)
            except Exception as error:  # one job must not take those behind it with it
                await self._fail(taken, error)

    async def _fail(self, taken: TakenJob, error: Exception) -> None:
        try:
            await self._shipments.fail(taken, error)
        except Exception as untold:  # the loop goes on; the queue hands the job over again, and its decode worker hears then
            taken.forget()
            log.error("job_not_ended", request_id=taken.job.request_id, exc_info=untold)

    async def _do(self, taken: TakenJob) -> None:
        reach(FaultPoint.JOB_TAKEN, taken.job.request_id, taken.deliveries)
        (verdict,) = self._core.handle(JobTaken(taken.job, taken.age_s, taken.deliveries, self._free_bytes(taken.job)))
        if isinstance(verdict, Refuse):
            await self._shipments.refuse(taken, verdict)
        else:
            self._queue.take(len(verdict.token_ids), time.monotonic())
            await self._shipments.run(taken, verdict)

    def _free_bytes(self, job: PrefillJob) -> int | None:
        """Returns what a prefill may take: the setting, else what is free."""
        if self._config.prefill_memory_mib:
            return self._config.prefill_memory_mib << 20
        on_device = self._engine.free_bytes()
        if on_device is not None:
            return on_device
        return self._free_memory.for_bytes(self._engine.prefill_bytes(job.transfer.prefill_tokens), time.monotonic())

    def _cache_usage(self) -> float | None:
        """Returns the taken share of the prefix cache, in hundredths: a heartbeat that says nothing new is quickly read."""
        cache = self._prefix_cache
        return round(cache.size_bytes / cache.capacity_bytes, 2) if cache.capacity_bytes else None

    @property
    def _shared(self) -> bool:
        """Tells whether several schedulers place prompts here; a sole one knows better than its workers."""
        return len(self._config.serves) > 1

    async def _watch_queue(self) -> None:
        while True:
            self._queue.waiting = await self._consumer.waiting()
            await asyncio.sleep(WATCH_QUEUE_EVERY_S)

    def _cancel(self, decode_site: str, cancel: CancelPrefill) -> None:
        self._core.handle(CancelHeard(decode_site, cancel))
        self._shipments.cancelled(decode_site, cancel)

    def _heartbeat(self) -> Heartbeat:
        return Heartbeat(
            site=self._config.site,
            worker=self._config.name,
            incarnation=self._incarnation,
            role=Role.PREFILL,
            model=self._description.model,
            fingerprint=self._description.fingerprint,
            max_context_tokens=self._description.max_context_tokens,
            queued_s=self._queue.queued_s if self._shared else 0.0,
            busy_s=self._queue.busy_s(time.monotonic()) if self._shared else 0.0,
            prefill_points=self._core.observed.points(),
            running=self._queue.running,
            cache_usage=self._cache_usage(),
            kv_points=self._kv_points,
            pull_bytes_per_s=_rounded(0.0 if self._pulls is None else self._pulls.bytes_per_s),
            disk_bytes_per_s=_rounded(0.0 if self._disk is None else self._disk.speed.bytes_per_s),
            pulls=self._pulls is not None,
            movable=self.lifecycle.movable,
            draining=self.lifecycle.leaving,
        )


def _rounded(bytes_per_s: float) -> float:
    """Two digits: a heartbeat that says nothing new is quickly read."""
    return float(f"{bytes_per_s:.1e}")
