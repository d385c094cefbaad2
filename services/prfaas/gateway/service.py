"""The gateway as a process: tokenizers loaded, the bus connected, the scheduler watched."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from starlette.routing import Route
from starlette.types import ASGIApp

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError, NotConnectedError
from prfaas.contracts import subjects
from prfaas.contracts.to_gateway import GenerateEvent
from prfaas.engine.weights import ModelFiles, prepare
from prfaas.gateway.app import make_app
from prfaas.gateway.config import GatewayConfig
from prfaas.gateway.endpoint import Gateway
from prfaas.gateway.generation import Generations
from prfaas.gateway.headers import ApiKeys
from prfaas.gateway.metrics import EdgeMetrics
from prfaas.gateway.record import Observers
from prfaas.gateway.served import Admission, ServedModel
from prfaas.service.runner import ServiceContext
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.metrics import GatewayMetrics

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
        if self._bus is not None:
            await self._bus.drain(STOP_DEADLINE_S)

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
