"""The scheduler as a process: heartbeats and link estimates in, placements out."""

import time

from opentelemetry import context as trace_context
from opentelemetry.trace import SpanKind

from prfaas.bus.control import ControlBus
from prfaas.bus.presence import watch
from prfaas.contracts import subjects
from prfaas.contracts.to_scheduler import AttemptEnded, Heartbeat, LinkEstimate, Placement, PlaceRequest, Refusal
from prfaas.scheduler.config import SchedulerConfig
from prfaas.scheduler.core import AttemptOver, HeartbeatHeard, LinkMeasured, PlaceAsked, SchedulerCore, WorkerGone
from prfaas.service.runner import ServiceContext
from prfaas.telemetry import names
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.metrics import SchedulerMetrics

CONNECT_DEADLINE_S = 10.0

log = get_logger(__name__)


class SchedulerService:
    def __init__(self, config: SchedulerConfig, context: ServiceContext) -> None:
        self._config = config
        self._context = context
        self._metrics = SchedulerMetrics(context.registry)
        self._core = SchedulerCore(config.site, config.make_policy())
        self._bus: ControlBus | None = None

    async def start(self) -> None:
        config = self._config
        self._bus = bus = await ControlBus.connect(config.control, config.name, CONNECT_DEADLINE_S)
        tasks = self._context.tasks
        tasks.spawn("workers", watch(bus, subjects.workers_bucket(config.site), Heartbeat, self._worker))
        tasks.spawn("links", watch(bus, subjects.links_bucket(config.site), LinkEstimate, self._link))
        await bus.subscribe(subjects.attempts(config.site), AttemptEnded, self._attempt_ended)
        await bus.serve(subjects.place(config.site), PlaceRequest, self._place)

    def ready(self) -> str | None:
        assert self._bus is not None
        return None if self._bus.connected else "the connection to the site's NATS server is down"

    async def drain(self, deadline_s: float) -> None:
        """Placements are answered at once: there is nothing to wait for."""

    async def stop(self) -> None:
        if self._bus is not None:
            await self._bus.drain()

    def _worker(self, key: str, beat: Heartbeat | None) -> None:
        now_s = time.monotonic()
        if beat is None:
            log.info("worker_gone", worker=key)
        elif key not in self._core.fleet.workers:
            log.info("worker_found", worker=key, model=beat.model, fingerprint=beat.fingerprint)
        self._core.handle(WorkerGone(now_s, key) if beat is None else HeartbeatHeard(now_s, beat))
        for (site, role), count in self._core.fleet.alive.items():
            self._metrics.workers.labels(site, role.value).set(count)

    def _link(self, key: str, estimate: LinkEstimate | None) -> None:
        if estimate is not None:
            self._core.handle(LinkMeasured(time.monotonic(), estimate))

    def _attempt_ended(self, ended: AttemptEnded) -> None:
        self._core.handle(AttemptOver(time.monotonic(), ended))

    async def _place(self, request: PlaceRequest) -> Placement | Refusal:
        attributes = {names.REQUEST_ID: request.request_id, names.REQUEST_MODEL: request.model}
        parent = trace_context.get_current()
        span = self._context.tracing.start(names.PLACE, parent=parent, kind=SpanKind.SERVER, attributes=attributes)
        started_s = time.monotonic()
        (answered,) = self._core.handle(PlaceAsked(started_s, request))
        answer = answered.answer
        self._metrics.decision_s.observe(time.monotonic() - started_s)
        if isinstance(answer, Placement):
            self._metrics.placed(answer.outcome, answer.prefill_site)
            offloaded = answer.prefill_site != self._config.site
            span.set_attributes({names.ROUTE_OFFLOADED: offloaded, names.ROUTE_REASON: answer.reason})
            span.set_attributes({names.PREFILL_SITE: answer.prefill_site, names.OUTCOME: answer.outcome.value})
        else:
            self._metrics.refused(answer.code)
            span.set_attributes({names.ERROR_TYPE: answer.code, names.ROUTE_REASON: answer.message})
        span.end()
        return answer
