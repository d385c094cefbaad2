"""The life of a process: configure, start, be ready, drain on SIGTERM, stop. Exit code 0: drained, 1: crashed, 2: bad config.

Instead of ending, a service may ask to be replaced by a program of another role: same process, same command line.
"""

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar, runtime_checkable

import uvloop
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, disable_created_metrics
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from prfaas.contracts.codes import FailureCode
from prfaas.process.config import ConfigError, ServiceConfig, load_config
from prfaas.process.http import HttpServer, pass_on, service_routes
from prfaas.process.tasks import Tasks
from prfaas.telemetry.faults import FAULTS
from prfaas.telemetry.logs import get_logger, set_up_logs
from prfaas.telemetry.tracing import Tracing, set_up_tracing

CHECK = "--check"
STOP_DEADLINE_S = 5.0
"""Time for each step after draining: cancelling background tasks, closing connections, sending the last spans."""

log = get_logger(__name__)


class StartRefusedError(Exception):
    """End of a service for a reason that its operator can mend. The message says what; it is told without a traceback."""


class ServiceContext(NamedTuple):
    """Parts of the process that a service uses."""

    tasks: Tasks
    registry: CollectorRegistry
    tracing: Tracing
    program: "Program | None" = None
    """The program that runs the service; None where something else than `run_service` does, such as a test."""
    leave_clients: Callable[[], Awaitable[None]] | None = None
    """Has the process's HTTP server take no new connections, and returns when no connection is left. None likewise."""


class Service(Protocol):
    async def start(self) -> None:
        """Returns when the service can take work. Its waits have deadlines; raising ends the process with 1."""
        ...

    def ready(self) -> str | None:
        """Returns why it cannot take work at this moment, or None. Asked between start and drain only.

        Ready means able: everything that a request needs of this service can be used now, each with a reason of its own. What
        other services need of their neighbours is their own reason: two services never wait for each other."""
        ...

    async def drain(self, timeout_s: float) -> None:
        """Takes no new work, announces that it leaves, and returns when running work is done. Cancelled after `timeout_s`."""
        ...

    async def stop(self) -> None:
        """Closes what is open, also after a start that failed half-way. Background tasks are already cancelled."""
        ...


@runtime_checkable
class HttpService(Service, Protocol):
    """A service with an HTTP face of its own."""

    def app(self, routes: Sequence[Route]) -> ASGIApp:
        """Called once, after start: an app that includes `routes` (health, readiness, metrics)."""
        ...


Config = TypeVar("Config", bound=ServiceConfig)


def run_service(
    config_cls: type[Config], make_service: Callable[[Config, ServiceContext], Service], argv: Sequence[str] | None = None
) -> int:
    """Runs until a signal or a crash and returns the exit code: `sys.exit(run_service(...))`, and nothing after it, since a
    watchdog ends the process should its threads not. With the word `--check` it only reads the configuration and
    the files that it names."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        config = load_config(config_cls, argv=[word for word in words if word != CHECK], environ=os.environ)
        config.check_files()
    except ConfigError as error:
        print(f"prfaas-{config_cls.role}: {error}", file=sys.stderr)
        return 2
    if CHECK in words:
        return 0
    service = f"prfaas-{config.role}"
    set_up_logs(level=config.log_level, format=config.log_format, service=service, site=config.site, instance=config.name)
    if (named := ["--name", config.name]) != words[-2:]:
        words += named
    process = _Process(Program(words))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = runner.run(process.run(config, make_service))
    if code == 0 and process.listening is not None and not process.stop_asked:
        process.program.replace(process.listening)
    return code


class Program:
    """The running program and the one that may take its place. Roles are named as in `prfaas-<role>`."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        """The command line that any role of this process is started with."""
        self.next_role = ""
        self.asked = asyncio.Event()

    def command(self, role: str) -> list[str]:
        return [sys.executable, "-m", f"prfaas_{role.replace('-', '_')}", *self.words]

    def become(self, role: str) -> None:
        """The service is stopped, without a drain, and this process goes on in that role. A signal to stop still ends it."""
        self.next_role = role
        self.asked.set()

    def replace(self, listening: socket.socket) -> NoReturn:
        """Ends this program. Its process, standard files, environment and `listening` are the next one's."""
        command = self.command(self.next_role)
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(command[0], command, {**os.environ, **pass_on(listening)})


class _StopAsked(Exception):
    pass


class _Process:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.listening: socket.socket | None = None
        """Socket for the program that takes this one's place."""
        self._phase = "starting"
        self._service: Service | None = None
        self._app: ASGIApp | None = None
        self._serving: asyncio.Task[None] | None = None
        self._stop_asked = asyncio.Event()

    @property
    def stop_asked(self) -> bool:
        return self._stop_asked.is_set()

    async def run(self, config: Config, make_service: Callable[[Config, ServiceContext], Service]) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the series of every counter and histogram
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        registry.register(FAULTS)
        tasks = Tasks()
        tracing, http = Tracing(), None
        try:
            tracing = set_up_tracing(role=config.role, instance=config.name, site=config.site, registry=registry)
            http = HttpServer(self._dispatch, config.http_host, config.http_port, idle_timeout_s=config.http_idle_timeout_s)
            registry.register(http)
            log.info("http_listening", http_host=config.http_host, http_port=http.port)
            routes = service_routes(self._ready, registry)
            self._app = Starlette(routes=[*routes, Route("/{path:path}", _starting, methods=["GET", "POST"])])
            self._serving = tasks.spawn("http", http.serve())

            self._service = service = make_service(config, ServiceContext(tasks, registry, tracing, self.program, http.leave))
            await self._until_done(service.start(), tasks, stoppable=True)
            self._app = service.app(routes) if isinstance(service, HttpService) else Starlette(routes=routes)
            if config.http_shared_port:
                await http.share_port(config.http_shared_port)
            self._phase = "ready"
            log.info("ready", http_host=config.http_host, http_port=http.port, pid=os.getpid())
            await self._until_done(self._stopped_or_replaced(), tasks)
            if self.stop_asked:
                await self._drain(service, config.drain_s, tasks)
            else:
                log.info("role_changing", to_role=self.program.next_role)
                self.listening = http.duplicate()
            code = 0
        except _StopAsked:
            code = 0
        except Exception as error:
            log.error("crashed", error=str(error), exc_info=None if isinstance(error, StartRefusedError) else error)
            code = 1
        self._phase = "stopping"
        if http is not None and self._serving is not None:
            http.stop()
            await asyncio.wait([self._serving], timeout=STOP_DEADLINE_S)
        code = await self._stop(tasks, code)
        if not await asyncio.to_thread(tracing.shut_down, STOP_DEADLINE_S):
            log.warning("spans_lost", reason=f"the trace collector did not take the last spans within {STOP_DEADLINE_S} s")
        log.info("stopped", exit_code=code)
        _exit_even_if_a_thread_hangs()
        return code

    async def _until_done(self, work: Coroutine[Any, Any, Any], tasks: Tasks, stoppable: bool = False) -> None:
        """Raises what `work` or a background task raised, and _StopAsked when a signal ended it early."""
        main = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._stop_asked.wait())
        try:
            await asyncio.wait([main, tasks.failed, *([stop] if stoppable else [])], return_when=asyncio.FIRST_COMPLETED)
            if tasks.failed.done():
                name, error = tasks.failed.result()
                error.add_note(f"in the background task `{name}`")
                raise error
            if not main.done():
                raise _StopAsked
            if main.cancelled():
                raise RuntimeError("the service cancelled its own start or drain")
            main.result()
        finally:
            stop.cancel()
            main.cancel()
            await asyncio.wait([main], timeout=STOP_DEADLINE_S)
            if main.done() and not main.cancelled():
                main.exception()  # marks it as seen: after a crash elsewhere, nobody asks for this one

    async def _stopped_or_replaced(self) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (self._stop_asked, self.program.asked)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _drain(self, service: Service, drain_s: float, tasks: Tasks) -> None:
        self._phase = "draining"
        log.info("draining", timeout_s=drain_s)
        try:
            await self._until_done(asyncio.wait_for(service.drain(drain_s), drain_s), tasks)
        except TimeoutError:
            log.warning("drain_incomplete", timeout_s=drain_s)

    async def _stop(self, tasks: Tasks, code: int) -> int:
        for name in await tasks.cancel_all(STOP_DEADLINE_S):
            log.error("task_hangs", task=name, timeout_s=STOP_DEADLINE_S)
            code = 1
        if code == 0 and tasks.failed.done():
            name, error = tasks.failed.result()
            log.error("task_failed_while_stopping", task=name, exc_info=error)
            code = 1
        if self._service is not None:
            try:
                await asyncio.wait_for(self._service.stop(), STOP_DEADLINE_S)
            except Exception as error:
                log.error("stop_failed", exc_info=error)
                code = 1
        return code

    def _signalled(self, number: int) -> None:
        if self._stop_asked.is_set():
            log.warning("killed", reason=f"a second signal ({signal.Signals(number).name}) came while stopping")
            os._exit(128 + number)
        log.info("signalled", signal=signal.Signals(number).name)
        self._stop_asked.set()

    def _ready(self) -> str | None:
        if self._phase != "ready" or self._service is None:
            return self._phase
        return self._service.ready()

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._app is not None
        await self._app(scope, receive, send)


async def _starting(_request: Request) -> JSONResponse:
    error = {"message": "The service is starting.", "type": "server_error", "param": None, "code": FailureCode.STARTING}
    return JSONResponse({"error": error}, 503, {"retry-after": "1"})


def _exit_even_if_a_thread_hangs() -> None:
    """The interpreter joins threads without a deadline; an engine stuck in one must not keep a dead process alive."""

    def force() -> None:
        log.error("exit_forced", reason=f"a thread did not end within {STOP_DEADLINE_S} s")
        os._exit(1)

    timer = threading.Timer(STOP_DEADLINE_S, force)
    timer.daemon = True
    timer.start()
