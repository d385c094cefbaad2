"""Health, readiness and metrics over HTTP, and the server that carries them (and the gateway's API) inside the service's loop."""

import asyncio
import math
import os
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from prfaas.process.answer_heads import AnswerHeads
from prfaas.process.connection_places import ConnectionPlaces, connection_limit
from prfaas.process.http_protocol import HEAD_TIMEOUT_S, HttpProtocol

IDLE_TIMEOUT_S = 75.0
BACKLOG = 2048
_LOOK_EVERY_S = 0.05
_ACCEPTING_TURNS = 1000
"""Turns of the loop in which connections that wait are still taken."""


def service_routes(ready: Callable[[], str | None], registry: CollectorRegistry) -> list[Route]:
    """`/health`: 200 while the loop turns. `/ready`: 200, or 503 with the reason. `/metrics`: plain text, or OpenMetrics for who
    takes any name."""

    async def health(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readiness(_request: Request) -> Response:
        reason = ready()
        if reason is None:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready", "reason": reason}, status_code=503)

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(_keeping_names(request.headers.get("accept", "")))
        return Response(encode(registry), headers={"content-type": content_type})

    return [Route("/health", health), Route("/ready", readiness), Route("/metrics", metrics)]


def _keeping_names(accept: str) -> str:
    """Returns what of an Accept header leaves metrics their names; else, an empty one, which asks for plain text.

    prometheus_client writes `vllm:...` as `vllm_...` in every form whose asker does not say that it takes other names. Prometheus
    2 does not say so and takes colons all the same."""
    return ",".join(form for form in accept.split(",") if "escaping=allow-utf-8" in form.replace(" ", ""))


class HttpServer(Collector):
    """uvicorn on a socket of our own, so that the port is known, and a taken one is an error of ours, before anything starts."""

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        port: int,
        *,
        grace_s: float = 1.0,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
        head_timeout_s: float = HEAD_TIMEOUT_S,
        max_connections: int | None = None,
    ) -> None:
        """Binds at once, or takes over the socket that this process was started with (see `inherited_socket`).

        Connections without a request are closed `idle_timeout_s` after the last answer, or `head_timeout_s` after their start;
        open ones `grace_s` after `stop`. `max_connections` is derived from the files that the process may open where it is None.
        Raises OSError that names the address."""
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = inherited_socket() or socket.create_server((host, port), family=family, backlog=BACKLOG)
        except OSError as error:
            raise OSError(f"cannot listen for HTTP on {host}:{port}: {error.strerror or error}") from error
        self._host = host
        self._heads = AnswerHeads(app)
        self._places: ConnectionPlaces[HttpProtocol] = ConnectionPlaces(max_connections or connection_limit())
        limits = {"head_timeout_s": head_timeout_s, "places": self._places}
        config = uvicorn.Config(
            self._heads,
            interface="asgi3",
            http=type("LimitedHttpProtocol", (HttpProtocol,), limits),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            reset_contextvars=True,
            timeout_graceful_shutdown=math.ceil(grace_s),
            timeout_keep_alive=idle_timeout_s,  # type: ignore[arg-type]  # it goes to call_later, which takes fractions
            # Clients that read it do not reuse a connection in the moment in which it is closed.
            headers=[("keep-alive", f"timeout={int(idle_timeout_s)}")] if idle_timeout_s >= 1 else [],
        )
        self._server = _Server(config)

    @property
    def port(self) -> int:
        port: int = self._socket.getsockname()[1]
        return port

    def duplicate(self) -> socket.socket:
        """A socket that listens on after this server has stopped: connections wait in it until another server takes it over."""
        return self._socket.dup()

    def collect(self) -> Iterator[Metric]:
        """Yields the server's metrics."""
        family = CounterMetricFamily(
            "prfaas_http_connections_closed", "Connections that the server closed, by why.", labels=["why"]
        )
        for why, count in self._places.closed.items():
            family.add_metric([why], count)
        yield family

    async def serve(self) -> None:
        """Returns after `stop`."""
        await self._server.serve(sockets=[self._socket])

    async def share_port(self, port: int) -> None:
        """Listens also on a port that other processes of this host share: the kernel gives each connection to one of them.

        Raises OSError that names the address."""
        try:
            family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
            shared = socket.create_server((self._host, port), family=family, backlog=BACKLOG, reuse_port=True)
        except OSError as error:
            raise OSError(f"cannot share the port {self._host}:{port} for HTTP: {error.strerror or error}") from error
        await self._server.listen(shared)

    async def leave(self) -> None:
        """Takes no new connections. Requests on open ones are answered, and their clients told to use others.

        Returns when no connection is left."""
        self._heads.leaving = True
        await self._server.stop_listening(self._socket)
        while connections := self._server.open_connections():
            for connection in connections:
                connection.close_if_idle()
            await asyncio.sleep(_LOOK_EVERY_S)

    def stop(self) -> None:
        self._server.should_exit = True


LISTEN_FD = 3


def inherited_socket() -> socket.socket | None:
    """Takes the socket of systemd's socket activation (sd_listen_fds(3)), or None: descriptor 3 is a listening socket for the
    process that LISTEN_PID names. The variables are removed, so that children do not take it for theirs."""
    meant = os.environ.pop("LISTEN_PID", "") == str(os.getpid()) and os.environ.pop("LISTEN_FDS", "") == "1"
    if not meant:
        return None
    os.set_inheritable(LISTEN_FD, False)
    return socket.socket(fileno=LISTEN_FD)


def pass_on(listening: socket.socket) -> dict[str, str]:
    """Puts the socket where `inherited_socket` of the next program looks for it, and closes all files but it and the standard
    ones. Returns the environment variables that announce it."""
    os.dup2(listening.fileno(), LISTEN_FD)
    os.set_inheritable(LISTEN_FD, True)
    # A device's driver may keep memory for as long as one of its files is open.
    os.closerange(LISTEN_FD + 1, os.sysconf("SC_OPEN_MAX"))
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}


class _Server(uvicorn.Server):
    """uvicorn's server with sockets that come and go while it runs."""

    _shared: socket.socket | None = None

    async def listen(self, sock: socket.socket) -> None:
        """Takes connections from one more socket. Call it when the server runs."""
        self._shared = sock
        protocol_class: Any = self.config.http_protocol_class  # uvicorn's own class, declared as a plain Protocol
        make = partial(
            protocol_class,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            _loop=None,
        )
        self.servers.append(await asyncio.get_running_loop().create_server(make, sock=sock, backlog=BACKLOG))

    async def stop_listening(self, own: socket.socket) -> None:
        """Closes all listening sockets, each in a moment in which no connection waits in it: it would be reset."""
        sockets = [own] if self._shared is None else [own, self._shared]
        for server, sock in zip(self.servers, sockets, strict=True):
            for _ in range(_ACCEPTING_TURNS):
                if not _has_connection(sock):
                    break
                await asyncio.sleep(0)
            server.close()
            sock.close()
        self.servers = []

    def open_connections(self) -> list[HttpProtocol]:
        return [connection for connection in self.server_state.connections if isinstance(connection, HttpProtocol)]

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to the runner."""
        yield


def _has_connection(listening: socket.socket) -> bool:
    poll = select.poll()
    poll.register(listening.fileno(), select.POLLIN)
    return bool(poll.poll(0))
