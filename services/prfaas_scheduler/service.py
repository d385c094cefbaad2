"""The scheduler as a process: heartbeats, cache announcements and link estimates in, placements out.

Several may run in a site. All hear the same, one leads and acts."""

import asyncio
import time

from msgspec.structs import replace
from nats.aio.msg import Msg
from opentelemetry import context as trace_context
from opentelemetry.trace import SpanKind

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError, RemoteError
from prfaas.bus.presence import BucketStatus, watch
from prfaas.bus.subscription import Subscription
from prfaas.contracts import subjects
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.scheduler_state import SchedulerState
from prfaas.contracts.to_gateway import Placement, Refusal
from prfaas.contracts.to_scheduler import (
    AttemptNews,
    BlocksChanged,
    BlocksHeld,
    Heartbeat,
    KVDisagreed,
    LinkEstimate,
    PlaceRequest,
    QueueAnnounced,
)
from prfaas.contracts.wire import BadMessageError, decode
from prfaas.process.incarnation import new_incarnation
from prfaas.process.runner import ServiceContext
from prfaas.telemetry import names
from prfaas.telemetry.fault_points import FaultPoint, reach
from prfaas.telemetry.faults import FAULTS
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.metrics.clock import watch_clock
from prfaas.telemetry.metrics.queue import QueueMetrics
from prfaas.telemetry.metrics.scheduler import SchedulerMetrics
from prfaas_scheduler.breaker import BreakerState
from prfaas_scheduler.config import SchedulerConfig
from prfaas_scheduler.dispatch import Dispatcher
from prfaas_scheduler.events import (
    AttemptOver,
    CacheChanged,
    CacheListed,
    HeartbeatReceived,
    LinkLost,
    LinkMeasured,
    PlacementRequested,
    QueueSeen,
    RequestCacheList,
    SiteDistrusted,
    WorkerGone,
)
from prfaas_scheduler.leadership.leadership import Leadership
from prfaas_scheduler.policies.threshold import Threshold
from prfaas_scheduler.queue.announced import QueueState
from prfaas_scheduler.queue.objectives import CLASS_NAMES, length_class
from prfaas_scheduler.roles.events import RequestSeen
from prfaas_scheduler.roles.moves import RoleMoves
from prfaas_scheduler.service_core import SchedulerCore
from prfaas_scheduler.told_state import told_state

CONNECT_TIMEOUT_S = 10.0
CACHE_LIST_TIMEOUT_S = 2.0
"""Time for a worker to list what its cache holds."""
ROLES_TICK_S = 1.0
CONCURRENT_CACHE_LISTS = 16
"""Concurrent BlocksHeld requests; each answer may be hundreds of kB."""
RETRY_S = 0.1

log = get_logger(__name__)


class SchedulerService:
    def __init__(self, config: SchedulerConfig, context: ServiceContext) -> None:
        self._config = config
        self._context = context
        self._metrics = SchedulerMetrics(context.registry)
        policy = config.make_policy()
        if isinstance(policy, Threshold):
            self._metrics.watch_threshold(lambda: policy.threshold_tokens, context.registry)
        self._core = SchedulerCore(config.site, policy, config.max_cached_blocks, config.tpot_objective_s, config.pulls)
        directory = self._core.fleet.directory
        self._metrics.watch_directory(
            blocks=lambda: directory.blocks, dropped=lambda: directory.dropped, registry=context.registry
        )
        self._leadership = Leadership(config.site, config.name, new_incarnation())
        self._metrics.watch_leadership(lambda: self._leadership.leads, lambda: self._leadership.term, context.registry)
        self._metrics.watch_distrust(lambda: self._core.distrusted_sites(time.monotonic()), context.registry)
        self._roles = config.make_roles(self._core.fleet)
        """Made anew for each leadership: it knows the moves that it began itself."""
        self._bus: ControlBus | None = None
        self._dispatcher: Dispatcher | None = None
        self._placing: Subscription | None = None
        """Set while requests are taken."""
        self._telling: Subscription | None = None
        """Likewise, for gateways that show the site's state."""
        self._workers_bucket = BucketStatus(subjects.workers_bucket(config.site))
        self._links_bucket = BucketStatus(subjects.links_bucket(config.site))
        self._holding: asyncio.Task[None] | None = None
        self._listing: set[str] = set()
        """Workers whose cache list is awaited."""
        self._list_room = asyncio.Semaphore(CONCURRENT_CACHE_LISTS)
        self._shown = 0
        """Series of the workers' metric."""

    async def start(self) -> None:
        config = self._config
        self._bus = bus = await ControlBus.connect(config.control, config.name, CONNECT_TIMEOUT_S)
        if config.serves:
            metrics = QueueMetrics(self._context.registry, lambda tokens: CLASS_NAMES[length_class(tokens)])
            options = config.queue_options
            self._dispatcher = dispatcher = Dispatcher(
                bus, config.site, config.name, config.serves, config.objectives, options, metrics
            )
            watch_clock(self._context.registry, lambda: dispatcher.clock.skew_s)
        if config.places:
            await self._hear_site(bus)
        await self._leadership.open(bus)
        tasks = self._context.tasks
        self._holding = tasks.spawn("hold the lease", self._leadership.run())
        tasks.spawn("lead", self._lead(bus))
        if config.places:
            tasks.spawn("roles", self._move_workers(bus))

    async def _hear_site(self, bus: ControlBus) -> None:
        """Follows workers, links, caches and attempts from now on. Raises BusError."""
        config, tasks = self._config, self._context.tasks
        workers, links = subjects.workers_bucket(config.site), subjects.links_bucket(config.site)
        tasks.spawn("workers", watch(bus, workers, Heartbeat, self._on_heartbeat, status=self._workers_bucket))
        tasks.spawn("links", watch(bus, links, LinkEstimate, self._on_link, status=self._links_bucket))
        await bus.subscribe(subjects.attempts(config.site), AttemptNews, self._on_attempt_news)
        await bus.subscribe_raw(subjects.all_blocks(config.site), self._on_cache_changed)
        await bus.subscribe_raw(subjects.queue_state(config.site, "*"), self._on_queue)

    def ready(self) -> str | None:
        """The scheduler needs the bus and the buckets of workers and links. It can decide, and refuse, without any worker."""
        assert self._bus is not None
        if not self._bus.connected:
            return "the connection to the site's NATS server is down"
        if not self._config.places:
            return None
        return self._workers_bucket.problem or self._links_bucket.problem

    async def drain(self, timeout_s: float) -> None:
        """Lets another scheduler lead, and gives back the jobs that are held. What has been asked is answered when the bus is
        drained."""
        if self._dispatcher is not None:
            await self._dispatcher.stop()
        if self._holding is not None:
            self._holding.cancel()
            await asyncio.wait([self._holding])
        await self._leadership.release()

    async def stop(self) -> None:
        if self._bus is not None:
            await self._bus.drain()

    async def _lead(self, bus: ControlBus) -> None:
        """Acts while this process leads, and only then: without a leader a gateway is told that no one listens."""
        acting = False
        while True:
            try:
                if acting and not self._leadership.leads:
                    acting = False
                    await self._cease()
                elif not acting and self._leadership.leads:
                    await self._begin(bus)
                    acting = True
            except BusError as error:
                log.warning("leading_not_begun", reason=str(error))
                await self._cease()
                await asyncio.sleep(RETRY_S)
            else:
                await self._leadership.turned()

    async def _begin(self, bus: ControlBus) -> None:
        """Dispatches queued jobs and takes requests from now on. Raises BusError."""
        if self._dispatcher is not None:
            await self._dispatcher.start()
        if self._config.places:
            self._roles = self._config.make_roles(self._core.fleet)
            self._placing = await bus.serve(subjects.place(self._config.site), PlaceRequest, self._place)
            self._telling = await bus.serve(subjects.scheduler_state(self._config.site), None, self._tell_state)

    async def _cease(self) -> None:
        if self._dispatcher is not None:
            await self._dispatcher.stop()
        serving, self._placing, self._telling = (self._placing, self._telling), None, None
        for subscription in serving:
            if subscription is not None:
                await subscription.drain()

    def _on_heartbeat(self, key: str, beat: Heartbeat | None) -> None:
        now_s = time.monotonic()
        if beat is None:
            log.info("worker_gone", worker=key)
        elif key not in self._core.fleet.workers:
            log.info("worker_found", worker=key, model=beat.model, fingerprint=beat.fingerprint)
        if beat is None:
            self._core.handle(WorkerGone(now_s, key))
        else:
            self._request_cache_lists(self._core.handle(HeartbeatReceived(now_s, beat)))
        self._show_workers()

    def _show_workers(self) -> None:
        alive = self._core.fleet.alive
        if len(alive) < self._shown:
            self._metrics.workers.clear()  # sites were forgotten, and their series go with them
            self._metrics.breaker_open.clear()
        self._shown = len(alive)
        for (site, role), count in alive.items():
            self._metrics.workers.labels(site, role.value).set(count)
        now_s = time.monotonic()
        for name, site_state in self._core.fleet.sites.items():
            if name != self._core.fleet.site:
                is_open = site_state.breaker.state(now_s) is not BreakerState.CLOSED
                self._metrics.breaker_open.labels(name).set(is_open)

    def _on_link(self, key: str, estimate: LinkEstimate | None) -> None:
        now_s = time.monotonic()
        if estimate is None:
            log.info("link_lost", link=key)
        self._core.handle(LinkLost(now_s, key) if estimate is None else LinkMeasured(now_s, estimate))

    def _on_attempt_news(self, news: AttemptNews) -> None:
        now_s = time.monotonic()
        if isinstance(news, KVDisagreed):
            log.error("site_distrusted", at_site=news.site, worker=news.worker, request_id=news.request_id)
            self._core.handle(SiteDistrusted(now_s, news.site))
        else:
            self._core.handle(AttemptOver(now_s, news))

    def _on_cache_changed(self, message: Msg) -> None:
        changed = decode(message.data, BlocksChanged)
        expected = subjects.blocks(self._config.site, changed.site, changed.role.value, changed.worker)
        if message.subject != expected:
            FAULTS.foreign["BlocksChanged"] += 1
            log.warning("blocks_of_another", subject=message.subject, claimed=expected)
            return
        self._request_cache_lists(self._core.handle(CacheChanged(time.monotonic(), changed)))

    def _on_queue(self, message: Msg) -> None:
        said = decode(message.data, QueueAnnounced)
        if message.subject != subjects.queue_state(self._config.site, said.site):
            log.warning("queue_of_another", subject=message.subject, claimed=said.site)
            return
        now_s = time.monotonic()
        state = QueueState(site=said.site, due_s=said.due_s, running_s=said.running_s, ready=said.ready, seen_at=now_s)
        self._core.handle(QueueSeen(now_s, state))

    def _request_cache_lists(self, instructions: list[RequestCacheList]) -> None:
        for ask in instructions:
            if ask.key not in self._listing:
                self._listing.add(ask.key)
                self._context.tasks.spawn(f"blocks of {ask.key}", self._request_cache_list(ask))

    async def _request_cache_list(self, ask: RequestCacheList) -> None:
        """Asks one worker. Without an answer the core asks again at a later sign of life."""
        assert self._bus is not None
        subject = subjects.held_blocks(ask.site, ask.role.value, ask.worker)
        try:
            async with self._list_room:
                held = await self._bus.request(subject, None, BlocksHeld, CACHE_LIST_TIMEOUT_S)
            self._core.handle(CacheListed(time.monotonic(), ask.key, held))
            self._metrics.snapshot("told")
        except (BusError, BadMessageError, ValueError) as error:
            self._metrics.snapshot("failed")
            log.debug("blocks_not_told", worker=ask.key, error=str(error))
        except Exception as error:
            # A background task that raises ends the process, and this one handles what a worker says.
            self._metrics.snapshot("failed")
            FAULTS.failed["blocks"] += 1
            log.error("blocks_not_handled", worker=ask.key, exc_info=error)
        finally:
            self._listing.discard(ask.key)

    async def _move_workers(self, bus: ControlBus) -> None:
        moves = RoleMoves(bus, self._config.site, self._metrics, lambda: self._leadership.leads)
        while True:
            await asyncio.sleep(ROLES_TICK_S)
            if self._roles is not None and self._leadership.leads:
                await moves.move_due(self._roles)

    async def _tell_state(self, _asked: None) -> SchedulerState:
        return told_state(self._config, self._core, self._leadership.term, time.monotonic())

    async def _place(self, request: PlaceRequest) -> Placement | Refusal:
        """Raises RemoteError where another scheduler may lead by now."""
        if not self._leadership.leads:
            raise RemoteError(FailureCode.NOT_LEADING, f"scheduler {self._config.name!r} leads no more")
        attributes = {names.REQUEST_ID: request.request_id, names.REQUEST_MODEL: request.model}
        parent = trace_context.get_current()
        span = self._context.tracing.start(names.PLACE, parent=parent, kind=SpanKind.SERVER, attributes=attributes)
        started_s = time.monotonic()
        # Decide.
        try:
            (answered,) = self._core.handle(PlacementRequested(started_s, request))
            answer = answered.answer
            if isinstance(answer, Placement):
                answer = replace(answer, term=self._leadership.term)
        except Exception as error:  # the caller is told at once, and asks again or fails this one request
            span.set_attribute(names.ERROR_TYPE, type(error).__name__)
            span.end()
            raise
        self._metrics.decision_s.observe(time.monotonic() - started_s)
        # A request that is placed again was counted the first time.
        if self._roles is not None and not request.refused_by:
            uncached_tokens = max(0, request.prompt_tokens - 1 - answered.cached_tokens)
            self._roles.handle(RequestSeen(started_s, request.model, uncached_tokens))
        # Say what was decided, in metrics and on the span.
        if isinstance(answer, Placement):
            self._metrics.placed(answer.outcome, answer.prefill_site)
            self._metrics.hit_tokens.inc(answered.cached_tokens)
            offloaded = answer.prefill_site != self._config.site
            span.set_attributes({names.ROUTE_OFFLOADED: offloaded, names.ROUTE_REASON: answer.reason})
            span.set_attributes({names.PREFILL_SITE: answer.prefill_site, names.OUTCOME: answer.outcome.value})
        else:
            self._metrics.refused(answer.code)
            span.set_attributes({names.ERROR_TYPE: answer.code, names.ROUTE_REASON: answer.message})
        span.end()
        reach(FaultPoint.PLACING, request.request_id)
        return answer
