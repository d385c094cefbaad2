"""Health, readiness and metrics over HTTP, and the server that carries them (and the gateway's API) inside the service's loop."""

import math
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp


def service_routes(ready: Callable[[], str | None], registry: CollectorRegistry) -> list[Route]:
    """`/health`: 200 while the loop turns. `/ready`: 200, or 503 with the reason. `/metrics`: Prometheus or OpenMetrics text."""

    async def health(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readiness(_request: Request) -> Response:
        reason = ready()
        if reason is None:
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "not ready", "reason": reason}, status_code=503)

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return [Route("/health", health), Route("/ready", readiness), Route("/metrics", metrics)]


class HttpServer:
    """uvicorn on a socket of our own, so that the port is known, and a taken one is an error of ours, before anything starts."""

    def __init__(self, app: ASGIApp, host: str, port: int, grace_s: float = 1.0) -> None:
        """Binds at once, or takes over the socket that this process was started with (see `inherited_socket`).

        `grace_s` is what open connections get when it stops. Raises OSError that names the address."""
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = inherited_socket() or socket.create_server((host, port), family=family, backlog=2048)
        except OSError as error:
            raise OSError(f"cannot listen for HTTP on {host}:{port}: {error.strerror or error}") from error
        config = uvicorn.Config(
            app,
            interface="asgi3",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            reset_contextvars=True,
            timeout_graceful_shutdown=math.ceil(grace_s),
        )
        self._server = _Server(config)

    @property
    def port(self) -> int:
        port: int = self._socket.getsockname()[1]
        return port

    def duplicate(self) -> socket.socket:
        """Listens on after this server has stopped: connections wait in it for whoever takes it over."""
        return self._socket.dup()

    async def serve(self) -> None:
        """Returns after `stop`."""
        await self._server.serve(sockets=[self._socket])

    def stop(self) -> None:
        self._server.should_exit = True


LISTEN_FD = 3


def inherited_socket() -> socket.socket | None:
    """By the protocol of systemd's socket activation (sd_listen_fds(3)): descriptor 3 is a listening socket for the process that
    LISTEN_PID names. Children must not take it for theirs, so the variables end here."""
    meant = os.environ.pop("LISTEN_PID", "") == str(os.getpid()) and os.environ.pop("LISTEN_FDS", "") == "1"
    if not meant:
        return None
    os.set_inheritable(LISTEN_FD, False)
    return socket.socket(fileno=LISTEN_FD)


def pass_on(listening: socket.socket) -> dict[str, str]:
    """Puts the socket where `inherited_socket` of the program that this process executes next looks for it, closes all other
    files but the standard ones, and returns the environment variables that announce it."""
    os.dup2(listening.fileno(), LISTEN_FD)
    os.set_inheritable(LISTEN_FD, True)
    # A device's driver may keep memory for as long as one of its files is open.
    os.closerange(LISTEN_FD + 1, os.sysconf("SC_OPEN_MAX"))
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the runner's."""
        yield
