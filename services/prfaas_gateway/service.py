"""The gateway as a process: tokenizers loaded, the bus connected, the scheduler watched."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from starlette.routing import Route
from starlette.types import ASGIApp

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError, NotConnectedError
from prfaas.bus.presence import watch
from prfaas.contracts import subjects
from prfaas.contracts.terms import Role
from prfaas.contracts.to_gateway import GenerateEvent
from prfaas.contracts.to_scheduler import Heartbeat
from prfaas.engine.weights import ModelFiles, prepare
from prfaas.process.runner import ServiceContext
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.metrics import GatewayMetrics
from prfaas_gateway.config import GatewayConfig
from prfaas_gateway.generation import Generations
from prfaas_gateway.http.app import make_app
from prfaas_gateway.http.endpoint import Gateway
from prfaas_gateway.http.headers import ApiKeys
from prfaas_gateway.in_flight import InFlight
from prfaas_gateway.metrics import EdgeMetrics
from prfaas_gateway.models import Admission, ServedModel
from prfaas_gateway.record import Observers

CHECK_INTERVAL_S = 2.0
RETRY_INTERVAL_S = 0.2
STOP_DEADLINE_S = 3.0

log = get_logger(__name__)


class GatewayService:
    def __init__(self, config: GatewayConfig, context: ServiceContext, load_files: Callable[[str], ModelFiles] = prepare) -> None:
        self._config = config
        self._load_files = load_files
        self._context = context
        self._observers = Observers(
            shared=GatewayMetrics(context.registry), edge=EdgeMetrics(context.registry), tracing=context.tracing
        )
        self._admission = Admission(config.max_requests)
        self._tokenizing = ThreadPoolExecutor(config.tokenizer_threads, thread_name_prefix="tokenize")
        self._bus: ControlBus | None = None
        self._gateway: Gateway | None = None
        self._silent: dict[str, asyncio.TimerHandle] = {}
        """Decode workers whose heartbeat has stopped, and what will give up their requests."""
        self._scheduler_silent: str | None = "the scheduler has not been asked yet"

    async def start(self) -> None:
        config, context = self._config, self._context
        models = [await asyncio.to_thread(self._load, name) for name in config.models]
        self._bus = bus = await ControlBus.connect(config.control, name=config.name)
        generations = Generations(
            bus,
            site=config.site,
            gateway=config.name,
            tracing=context.tracing,
            control_deadline_s=config.control_deadline_s,
            idle_deadline_s=config.idle_deadline_s,
            block_tokens=config.block_tokens,
        )

        def hear(event: GenerateEvent) -> None:
            if not generations.in_flight.dispatch(event):
                self._observers.edge.stray_events.inc()

        await bus.subscribe(subjects.events(config.site, config.name), GenerateEvent, hear)
        self._gateway = Gateway(
            config=config,
            models={model.name: model for model in models},
            keys=ApiKeys(config.api_keys),
            admission=self._admission,
            generations=generations,
            observers=self._observers,
        )
        context.tasks.spawn("watch_bus", watch_bus(bus))
        changed = partial(self._worker, generations.in_flight)
        context.tasks.spawn("watch_workers", watch(bus, subjects.workers_bucket(config.site), Heartbeat, changed))
        context.tasks.spawn("watch_scheduler", self._watch_scheduler(bus))

    def app(self, routes: Sequence[Route]) -> ASGIApp:
        assert self._gateway is not None
        return make_app(self._gateway, routes)

    def ready(self) -> str | None:
        assert self._bus is not None
        if not self._bus.connected:
            return "the connection to the site's NATS server is down"
        return self._scheduler_silent

    @property
    def requests_running(self) -> int:
        return self._admission.running

    async def drain(self, deadline_s: float) -> None:
        await self._admission.drain()

    async def stop(self) -> None:
        self._tokenizing.shutdown(wait=False, cancel_futures=True)
        for timer in self._silent.values():
            timer.cancel()
        if self._bus is not None:
            await self._bus.drain(STOP_DEADLINE_S)

    def _worker(self, in_flight: InFlight, key: str, beat: Heartbeat | None) -> None:
        """A decode worker that is gone sends no more events: its requests need not wait for their deadlines to see it."""
        site, _, worker = key.partition(f".{Role.DECODE}.")
        if site != self._config.site or not worker:
            return
        if beat is not None:
            if timer := self._silent.pop(worker, None):
                timer.cancel()
        elif worker not in self._silent:
            later = asyncio.get_running_loop().call_later
            self._silent[worker] = later(self._config.worker_grace_s, self._lose, in_flight, worker)

    def _lose(self, in_flight: InFlight, worker: str) -> None:
        del self._silent[worker]
        if lost := in_flight.lose(worker):
            log.warning("decode_worker_lost", worker=worker, requests=lost)

    def _load(self, name: str) -> ServedModel:
        return ServedModel.load(self._load_files(name), self._tokenizing)

    async def _watch_scheduler(self, bus: ControlBus) -> None:
        """An empty message is no PlaceRequest, and the bus at the other end says so: its answer shows that the scheduler lives,
        and is counted and traced nowhere."""
        while True:
            try:
                await bus.request_raw(subjects.place(self._config.site), b"", self._config.control_deadline_s)
                self._scheduler_silent = None
            except BusError as error:
                self._scheduler_silent = f"the scheduler does not answer: {error}"
            await asyncio.sleep(CHECK_INTERVAL_S if self._scheduler_silent is None else RETRY_INTERVAL_S)


async def watch_bus(bus: ControlBus) -> None:
    """Reconnecting is the bus's own affair; when it gives up, so does the process, and whoever supervises it starts it again."""
    await bus.closed.wait()
    raise NotConnectedError("the connection to the site's NATS server has ended for good")
