"""Processes of a running stack watched: one that ends by itself is started again, after a pause that grows."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

from prfaas.stack.nats_server import NatsServerError
from prfaas.stack.restart_pause import RestartPause
from prfaas.stack.service_process import ServiceProcess, ServiceProcessError, ended_with
from prfaas.stack.stack import READY_DEADLINE_S, Stack
from prfaas.wan.process import WanProcessError

_FAILURES = (ServiceProcessError, NatsServerError, WanProcessError)


class Supervisor:
    def __init__(self, stack: Stack, progress: Callable[[str], None]) -> None:
        self._stack = stack
        self._progress = progress
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._keep(*kept)) for kept in self._kept()]

    async def close(self) -> None:
        """Returns when nothing is started again any more."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _kept(self) -> Iterator[tuple[str, Callable[[], Awaitable[int]], Callable[[], Awaitable[object]]]]:
        """Yields name, wait for the end, and start of each process."""
        for name, server in self._stack.sites.servers.items():
            yield f"nats-server {name}", server.wait, server.start
        for (dialler, dialled), link in self._stack.sites.links.items():
            yield f"the link from {dialler} to {dialled}", link.wait, link.start
        for (site, name), process in self._stack.services.items():
            yield f"{name} of {site}", process.wait, partial(_again, process)

    async def _keep(self, name: str, wait: Callable[[], Awaitable[int]], start: Callable[[], Awaitable[object]]) -> None:
        pause = RestartPause()
        started_at = time.monotonic()
        while True:
            how = ended_with(await wait())
            pause_s = pause.after_life(time.monotonic() - started_at)
            self._progress(f"{name} {how}; it is started again in {pause_s:g} s")
            await asyncio.sleep(pause_s)
            started_at = time.monotonic()
            try:
                await start()
                self._progress(f"{name} is ready again")
            except _FAILURES as error:
                self._progress(f"{name} did not start: {error}")


async def _again(process: ServiceProcess) -> None:
    """Starts it on the port that it had. Raises ServiceProcessError."""
    await process.configure({"http-port": process.http_port}).spawn()
    await process.wait_ready(READY_DEADLINE_S)
