"""The gateway as a service: loads tokenizers, connects to the bus, and watches the scheduler and the decode workers."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from nats.aio.msg import Msg
from starlette.routing import Route
from starlette.types import ASGIApp

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError, NotConnectedError
from prfaas.bus.presence import watch
from prfaas.contracts import subjects
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.scheduler_state import SchedulerState
from prfaas.contracts.to_decode import AskRunning
from prfaas.contracts.to_scheduler import Heartbeat
from prfaas.engine.model_directory import ModelFiles, WeightsError
from prfaas.engine.weights import prepare
from prfaas.process.incarnation import new_incarnation
from prfaas.process.runner import ServiceContext, StartRefusedError
from prfaas.sealing.keys import read_hash_key
from prfaas.secrets.tenants_file import load_tenants
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.metrics.gateway import GatewayMetrics
from prfaas_gateway.admission import Admission
from prfaas_gateway.config import GatewayConfig
from prfaas_gateway.console.console import Console
from prfaas_gateway.console.console_core import ConsoleCore
from prfaas_gateway.console.recent_requests import KEPT
from prfaas_gateway.decode_watch import DecodeWatch
from prfaas_gateway.decode_workers import DecodeWorker, DecodeWorkers
from prfaas_gateway.generation import Generations
from prfaas_gateway.grammar_check import GrammarChecker
from prfaas_gateway.home_placement import HomeLimits, HomePlacement
from prfaas_gateway.http.app import make_app
from prfaas_gateway.http.gateway import Gateway
from prfaas_gateway.http.io import Bodies
from prfaas_gateway.in_flight import InFlight
from prfaas_gateway.large_requests import LargeRequestReader
from prfaas_gateway.models import ServedModel
from prfaas_gateway.observers import EdgeMetrics, Observers
from prfaas_gateway.placing import Placing
from prfaas_gateway.scheduler_contact import SchedulerContact
from prfaas_gateway.tenants.access import Access
from prfaas_gateway.tenants.directory import Directory
from prfaas_gateway.tenants.metrics import TenantMetrics
from prfaas_gateway.tenants.reload import keep_reading, signature_of
from prfaas_gateway.turns import Turns

CHECK_INTERVAL_S = 2.0
RETRY_INTERVAL_S = 0.2
STOP_DEADLINE_S = 3.0
SCHEDULER_STATE_TIMEOUT_S = 1.0

log = get_logger(__name__)


_files = partial(prepare, weights=False)


class GatewayService:
    def __init__(self, config: GatewayConfig, context: ServiceContext, load_files: Callable[[str], ModelFiles] = _files) -> None:
        self._config = config
        self._load_files = load_files
        self._context = context
        self._incarnation = new_incarnation()
        self._console_core = ConsoleCore(
            config.site, config.name, config.model_names, keys=config.tenants_file is not None, kept=KEPT if config.console else 0
        )
        self._console: Console | None = None
        self._observers = Observers(
            shared=GatewayMetrics(context.registry),
            edge=EdgeMetrics(context.registry),
            tracing=context.tracing,
            requests=self._console_core.requests,
        )
        self._admission = Admission(config.max_requests)
        self._tokenizing = ThreadPoolExecutor(config.tokenizer_threads, thread_name_prefix="tokenize")
        self._grammars = GrammarChecker()
        self._bus: ControlBus | None = None
        self._gateway: Gateway | None = None
        self._large_requests: LargeRequestReader | None = None
        self._decode_workers = DecodeWorkers(config.site, config.worker_grace_s)
        limits = HomeLimits(
            after_s=config.unscheduled_after_s, tokens=config.unscheduled_tokens, requests=config.unscheduled_requests
        )
        self._home = HomePlacement(config.site, limits)
        self._scheduler = SchedulerContact()
        self._losing: asyncio.TimerHandle | None = None
        """Timer of the next loss of a silent decode worker."""
        self._scheduler_silent: str | None = "the scheduler has not been asked yet"

    async def start(self) -> None:
        config, context = self._config, self._context
        files, models = await self._load_models()
        self._large_requests = LargeRequestReader([(each.served_names, its) for each, its in zip(models, files, strict=True)])
        self._bus = bus = await ControlBus.connect(config.control, name=config.name)
        generations = self._generations(bus)
        # An event that comes in the moment of a reconnect is a gap in its answer, until it has been sent again.
        bus.reconnect_when(lambda: not len(generations.in_flight))
        events = subjects.events_from(subjects.events(config.site, config.name), "*")
        await bus.subscribe_raw(events, partial(self._event, generations.in_flight))
        await bus.subscribe_raw(
            subjects.gateway_alive(config.site, config.name, self._incarnation), partial(self._say_alive, bus)
        )
        if config.console:
            ask = partial(self._ask_scheduler_state, bus)
            self._console = Console(self._console_core, ask, context.tasks, config.console_viewers)
        self._gateway = Gateway(
            config=config,
            models={name: model for model in models for name in model.served_names},
            access=self._access(),
            admission=self._admission,
            bodies=Bodies(config.max_requests, max(config.max_body_bytes, config.max_bodies_mib << 20)),
            large_requests=self._large_requests,
            grammars=self._grammars,
            generations=generations,
            observers=self._observers,
        )
        context.tasks.spawn("watch_bus", watch_bus(bus))
        changed = partial(self._worker, generations.in_flight)
        context.tasks.spawn("watch_workers", watch(bus, subjects.workers_bucket(config.site), Heartbeat, changed))
        context.tasks.spawn("watch decode workers", self._decode_watch(bus, generations.in_flight).run())
        context.tasks.spawn("watch_scheduler", self._watch_scheduler(bus))
        context.tasks.spawn("warm up for large requests", self._large_requests.warm_up())

    def app(self, routes: Sequence[Route]) -> ASGIApp:
        assert self._gateway is not None
        return make_app(self._gateway, routes, self._console)

    def ready(self) -> str | None:
        """The gateway needs the bus, a scheduler that answers, and for each model a decode worker that takes requests."""
        assert self._bus is not None
        if not self._bus.connected:
            return "the connection to the site's NATS server is down"
        if self._scheduler_silent is not None:
            return self._scheduler_silent
        if unserved := self._decode_workers.unserved(self._config.model_names):
            return f"no decode worker takes requests for {', '.join(map(repr, unserved))}"
        return None

    @property
    def requests_running(self) -> int:
        return self._admission.running

    async def drain(self, timeout_s: float) -> None:
        # Clients first: no request is refused that comes on a connection which is open.
        await asyncio.sleep(self._config.drain_notice_s)
        if self._console is not None:
            self._console.close()
        if self._context.leave_clients is not None:
            await self._context.leave_clients()
        await self._admission.drain()

    async def stop(self) -> None:
        self._tokenizing.shutdown(wait=False, cancel_futures=True)
        self._grammars.close()
        if self._losing is not None:
            self._losing.cancel()
        if self._large_requests is not None:
            await self._large_requests.close()
        if self._bus is not None:
            await self._bus.drain(STOP_DEADLINE_S)

    async def _load_models(self) -> tuple[list[ModelFiles], list[ServedModel]]:
        """Raises StartRefusedError."""
        turns = Turns(self._config.tokenizer_threads)
        try:
            files = [await asyncio.to_thread(self._load_files, reference) for reference in self._config.models]
            models = [await asyncio.to_thread(ServedModel.load, each, self._config, self._tokenizing, turns) for each in files]
        except WeightsError as error:
            raise StartRefusedError(str(error)) from error
        return files, models

    def _access(self) -> Access:
        """Reads the tenants file and watches it. Raises TenantsError."""
        config, context = self._config, self._context
        metrics = TenantMetrics(context.registry, named=config.tenant_metrics)
        now_s = asyncio.get_running_loop().time()
        if config.tenants_file is None:
            return Access(Directory(None, 1, now_s), metrics)
        path = Path(config.tenants_file)
        # The signature first: a change between the two is read again.
        signature = signature_of(path)
        directory = Directory(load_tenants(path), config.tenant_gateways, now_s)
        context.tasks.spawn("watch_tenants", keep_reading(path, signature, directory, metrics))
        return Access(directory, metrics)

    def _generations(self, bus: ControlBus) -> Generations:
        config = self._config
        placing = Placing(
            bus=bus,
            site=config.site,
            gateway=config.name,
            incarnation=self._incarnation,
            tracing=self._context.tracing,
            control_deadline_s=config.control_deadline_s,
            block_tokens=config.block_tokens,
            hash_key=read_hash_key(config.block_hash_key_file),
            scheduler=self._scheduler,
            home=self._home,
            has_other=self._has_other,
        )
        generations = Generations(
            placing,
            config.idle_deadline_s,
            on_acceptance=lambda worker: self._accepted(generations.in_flight, worker),
            on_move=self._observers.edge.moved_requests.inc,
        )
        self._observers.edge.watch_waiting(lambda: generations.waiting)
        return generations

    def _decode_watch(self, bus: ControlBus, in_flight: InFlight) -> DecodeWatch:
        asking = AskRunning(gateway=self._config.name, gateway_incarnation=self._incarnation)
        lose = partial(self._gone, in_flight)
        return DecodeWatch(bus, self._config.site, asking, in_flight, self._has_other, lose)

    def _event(self, in_flight: InFlight, message: Msg) -> None:
        worker = message.subject.rpartition(".")[2]
        if not in_flight.hear(worker, message.data):
            self._observers.edge.stray_events.inc()

    async def _ask_scheduler_state(self, bus: ControlBus) -> SchedulerState:
        """Raises BusError, BadMessageError."""
        subject = subjects.scheduler_state(self._config.site)
        return await bus.request(subject, None, SchedulerState, SCHEDULER_STATE_TIMEOUT_S)

    async def _say_alive(self, bus: ControlBus, asked: Msg) -> None:
        await bus.publish_raw(asked.reply, b"")

    def _worker(self, in_flight: InFlight, key: str, beat: Heartbeat | None) -> None:
        now_s = asyncio.get_running_loop().time()
        self._home.handle_beat(key, beat, now_s)
        self._decode_workers.handle_beat(key, beat, now_s)
        if self._console is not None:
            self._console_core.handle_beat(key, beat)
        self._lose_silent(in_flight)

    def _accepted(self, in_flight: InFlight, worker: DecodeWorker) -> None:
        self._decode_workers.handle_acceptance(worker, asyncio.get_running_loop().time())
        self._lose_silent(in_flight)

    def _has_other(self, worker: str) -> bool:
        return self._decode_workers.has_other(worker, asyncio.get_running_loop().time())

    def _gone(self, in_flight: InFlight, worker: DecodeWorker) -> None:
        self._decode_workers.lose(worker, asyncio.get_running_loop().time())
        self._lose_silent(in_flight)

    def _lose_silent(self, in_flight: InFlight) -> None:
        """Gives up the decode workers that are lost, now and whenever the next one is.

        One that is gone sends no more events: its requests need not wait for their deadlines to see it."""
        loop = asyncio.get_running_loop()
        for worker in self._decode_workers.take_lost(loop.time()):
            if lost := in_flight.lose(worker):
                log.warning(FailureCode.DECODE_WORKER_LOST, worker=worker.name, incarnation=worker.incarnation, requests=lost)
        if self._losing is not None:
            self._losing.cancel()
        next_at = self._decode_workers.next_lost_at()
        self._losing = None if next_at is None else loop.call_at(next_at, self._lose_silent, in_flight)

    async def _watch_scheduler(self, bus: ControlBus) -> None:
        """Asks the scheduler with an empty message. The answer is an error of its bus: it shows that the scheduler lives, and is
        counted and traced nowhere."""
        clock = asyncio.get_running_loop().time
        while True:
            asked_at = clock()
            try:
                patience_s = self._scheduler.patience_s(self._config.control_deadline_s)
                await bus.request_raw(subjects.place(self._config.site), b"", patience_s)
                self._scheduler_silent = None
                self._scheduler.handle_answer()
            except BusError as error:
                self._scheduler_silent = f"the scheduler does not answer: {error}"
                self._scheduler.handle_absence(asked_at)
            await asyncio.sleep(CHECK_INTERVAL_S if self._scheduler_silent is None else RETRY_INTERVAL_S)


async def watch_bus(bus: ControlBus) -> None:
    """Raises NotConnectedError when the bus has stopped to reconnect: the process ends, and its supervisor starts it again."""
    await bus.closed.wait()
    raise NotConnectedError("the connection to the site's NATS server has ended for good")
