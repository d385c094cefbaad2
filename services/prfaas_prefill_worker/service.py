"""The prefill worker as a process: takes jobs from the queue one after another, and announces itself."""

import asyncio
import time

from prfaas.bus.jobs import JobConsumer
from prfaas.bus.presence import Announcer
from prfaas.bus.taken_jobs import TakenJob
from prfaas.contracts import subjects
from prfaas.contracts.terms import Role
from prfaas.contracts.to_prefill import CancelPrefill
from prfaas.contracts.to_scheduler import Heartbeat
from prfaas.engine.factory import build_engine
from prfaas.engine.protocol import Engine
from prfaas.kvcache.prefix_cache import PrefixCache
from prfaas.process.runner import ServiceContext
from prfaas.telemetry.metrics import PrefillMetrics, SendMetrics
from prfaas.worker.block_announcer import BlockAnnouncer
from prfaas.worker.engine_thread import engine_thread
from prfaas.worker.role_change import RoleChange
from prfaas.worker.site_connections import SiteConnections
from prfaas_prefill_worker.announced_queue import SharedQueue
from prfaas_prefill_worker.config import PrefillWorkerConfig
from prfaas_prefill_worker.service_core import CancelHeard, JobTaken, PrefillCore, PrefillEnded, Refuse
from prfaas_prefill_worker.shipment import Shipments

TAKE_DEADLINE_S = 1.0
WATCH_QUEUE_EVERY_S = 1.0
"""As often as it is announced."""


class PrefillWorkerService:
    def __init__(self, config: PrefillWorkerConfig, context: ServiceContext) -> None:
        self._config = config
        self._context = context
        self._thread = engine_thread()
        self._site: SiteConnections | None = None
        self._draining = asyncio.Event()
        self._role_change = RoleChange(config.site, config.name, Role.PREFILL, config.movable, context, self)

    async def start(self) -> None:
        config, context = self._config, self._context
        assert config.bulk is not None
        engine = await asyncio.get_running_loop().run_in_executor(self._thread, build_engine, config.engine)
        self._description = description = engine.describe()
        self._site = await SiteConnections.open(config.control, config.bulk, config.name)
        bus, lane = self._site
        self._kv_points = description.layout.size_points(description.max_context_tokens)
        self._core = PrefillCore(description.model, description.fingerprint, description.max_context_tokens, config.serves)
        blocks = BlockAnnouncer(bus, site=config.site, worker=config.name, role=Role.PREFILL, sites=config.serves)
        self._shipments = Shipments(
            site=config.site,
            worker=config.name,
            bus=bus,
            lane=lane,
            engine=engine,
            thread=self._thread,
            prefix_cache=PrefixCache(description.chunk_tokens, config.prefix_cache_mib << 20),
            cache_changed=blocks.changed,
            core=self._core,
            tasks=context.tasks,
            tracing=context.tracing,
            metrics=PrefillMetrics(context.registry, description.model),
            send_metrics=SendMetrics(context.registry),
            link=config.link,
            unsent_bytes=config.unsent_mib << 20,
            idle_timeout_s=config.idle_timeout_s,
            lossy_kv=config.engine.lossy_kv,
            tails=config.tails,
        )
        self._shipments.open_links(config.serves)
        await self._warm_up(engine)
        await bus.subscribe(subjects.cancel_prefill(config.site), CancelPrefill, self._cancel)
        self._queue = SharedQueue(self._core.observed)
        self._consumer = await JobConsumer.open(bus, config.site, description.model, config.name)
        self._working = context.tasks.spawn("work", self._work())
        await blocks.start()
        context.tasks.spawn("announce blocks", blocks.run())
        if self._shared:
            context.tasks.spawn("watch queue", self._watch_queue())
        self._announcer = Announcer(bus, config.serves, self._heartbeat)
        await self._role_change.start(bus)
        context.tasks.spawn("announce", self._announcer.run())

    def ready(self) -> str | None:
        """The worker needs both connections, its site's job queue, and a site that hears of it."""
        assert self._site is not None
        return self._site.down() or self._consumer.problem or self._announcer.problem

    async def drain(self, deadline_s: float) -> None:
        self._role_change.give_up()
        await self.finish()
        await self.withdraw()

    async def finish(self) -> None:
        self._draining.set()
        await self._announcer.beat()
        await asyncio.wait([self._working])  # which a cancelled drain must not cancel
        await self._shipments.settled()

    async def resume(self) -> None:
        self._draining.clear()
        if self._working.done():
            self._working = self._context.tasks.spawn("work", self._work())
        await self._announcer.beat()

    async def withdraw(self) -> None:
        await self._announcer.withdraw()
        await self._shipments.leave_links()

    async def stop(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._site is not None:
            await self._site.close()

    async def _warm_up(self, engine: Engine) -> None:
        """One chunk for nobody, twice: the first request must not pay for cold memory, nor a scheduler plan without a figure."""
        tokens = min(self._description.chunk_tokens, self._description.max_context_tokens)
        started_s = 0.0
        for _ in range(2):
            started_s = time.monotonic()
            await asyncio.get_running_loop().run_in_executor(
                self._thread, engine.prefill, [0] * tokens, lambda piece: None, lambda: False
            )
        self._core.handle(PrefillEnded(tokens, time.monotonic() - started_s))

    async def _work(self) -> None:
        while True:
            draining = self._draining.is_set()
            taken = await (self._consumer.take_last if draining else self._consumer.take)(TAKE_DEADLINE_S)
            if taken is None:
                self._queue.idle()
                if draining and self._draining.is_set():
                    return
                continue
            try:
                await self._do(taken)
            except Exception as error:  # one job must not take those behind it with it
                await self._shipments.fail(taken, error)

    async def _do(self, taken: TakenJob) -> None:
        (verdict,) = self._core.handle(JobTaken(taken.job, taken.age_s, taken.deliveries))
        if isinstance(verdict, Refuse):
            await self._shipments.refuse(taken, verdict)
        else:
            self._queue.take(len(verdict.token_ids), time.monotonic())
            await self._shipments.run(taken, verdict)

    @property
    def _shared(self) -> bool:
        """Whether several schedulers place prompts here; a sole one knows better than its workers."""
        return len(self._config.serves) > 1

    async def _watch_queue(self) -> None:
        while True:
            self._queue.waiting = await self._consumer.waiting()
            await asyncio.sleep(WATCH_QUEUE_EVERY_S)

    def _cancel(self, cancel: CancelPrefill) -> None:
        self._core.handle(CancelHeard(cancel))

    def _heartbeat(self) -> Heartbeat:
        return Heartbeat(
            site=self._config.site,
            worker=self._config.name,
            role=Role.PREFILL,
            model=self._description.model,
            fingerprint=self._description.fingerprint,
            max_context_tokens=self._description.max_context_tokens,
            queued_s=self._queue.queued_s if self._shared else 0.0,
            busy_s=self._queue.busy_s(time.monotonic()) if self._shared else 0.0,
            prefill_points=self._core.observed.points(),
            kv_points=self._kv_points,
            movable=self._role_change.possible,
            draining=self._draining.is_set(),
        )
