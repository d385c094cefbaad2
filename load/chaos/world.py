"""A running stack to which faults are done: its processes come back when they end, as a supervisor would have it."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx

from load.chaos.disk import SmallDisk
from load.chaos.harness import FaultHarness
from load.chaos.messages import Messages
from load.emulated_stack import HOME
from prfaas.bus.bulk.lane import BulkLane
from prfaas.site.sites import Description, Role
from prfaas.stack.service_process import ServiceProcess, ServiceProcessError
from prfaas.stack.stack import Stack

RESPAWN_S = 1.0
"""Time after which a process that has ended is started again."""
START_S = 60.0
_POLL_S = 0.05


class NotHealthyError(Exception):
    """Raised when a service is not well again within its bound; the message says which and why."""


class World:
    def __init__(
        self,
        stack: Stack,
        harness: FaultHarness,
        control: BulkLane,
        bulk: BulkLane,
        disk: SmallDisk,
        respawn_s: float,
    ) -> None:
        """`respawn_s`: time after which a process that has ended is started again."""
        self.stack = stack
        self.harness = harness
        self.bulk = bulk
        self.messages = Messages(HOME, control, bulk)
        self.disk = disk
        self.unexpected_exits: list[str] = []
        """Processes that ended by themselves, with their exit codes."""
        self.kept_down: dict[ServiceProcess, asyncio.Event] = {}
        """Processes that are not started again when they end, until their event says that they run once more."""
        self._respawn_s = respawn_s
        self._killed: dict[int, asyncio.Event] = {}
        """Pids of killed processes, and whether others run in their place."""
        self._repairs: set[asyncio.Task[None]] = set()

    # ---- processes

    def process_of(self, pid: int) -> ServiceProcess:
        (found,) = [process for process in self.stack.services.values() if process.pid == pid]
        return found

    def processes(self, role: Role, site: str | None = None) -> list[ServiceProcess]:
        return [
            process for (at, _), process in self.stack.services.items() if process.role == role and site in (None, at)
        ]  # fmt: skip

    def kill(self, process: ServiceProcess) -> None:
        self._killed[process.pid] = asyncio.Event()
        process.kill()

    async def until_back(self, killed_pid: int) -> None:
        """Returns when a killed process has been started again and is ready, or has not been within `START_S`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_S):
                await self._killed[killed_pid].wait()

    async def supervise(self) -> None:
        """Starts every process again that has ended, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for process in self.stack.services.values():
                tasks.create_task(self._supervise(process))

    async def _supervise(self, process: ServiceProcess) -> None:
        while True:
            pid = process.pid
            code = await process.wait()
            if process in self.kept_down:
                await self.kept_down[process].wait()
                continue
            if pid not in self._killed:
                self.unexpected_exits.append(f"{process.name} ended with {code}: {process.log_end(3)}")
            await asyncio.sleep(self._respawn_s)
            await process.spawn()
            with contextlib.suppress(ServiceProcessError):  # whether it is well again, `healthy` says
                await process.wait_ready(START_S)
            if pid in self._killed:
                self._killed[pid].set()

    def keep_down(self, process: ServiceProcess) -> None:
        """The process is not started again when it ends, until `start_kept_down`."""
        self.kept_down[process] = asyncio.Event()

    async def start_kept_down(self) -> None:
        """Starts the processes that were kept down. Raises ServiceProcessError."""
        for process, started in list(self.kept_down.items()):
            if process.exit_code is not None:
                await process.spawn()
                await process.wait_ready(START_S)
            del self.kept_down[process]
            started.set()

    # ---- repairs

    def later(self, after_s: float, repair: Callable[[], Awaitable[object]]) -> None:
        """Does a repair after a while; `repaired` waits for it."""

        async def wait() -> None:
            await asyncio.sleep(after_s)
            await repair()

        task = asyncio.create_task(wait())
        self._repairs.add(task)
        task.add_done_callback(self._repairs.discard)

    async def repaired(self) -> None:
        while self._repairs:
            await asyncio.gather(*self._repairs)

    # ---- health

    async def healthy(self, timeout_s: float) -> None:
        """Returns when every service is ready and known to its schedulers, and no decode worker has a request left.

        Raises NotHealthyError."""
        until_at = time.monotonic() + timeout_s
        why = "nothing was asked yet"
        async with httpx.AsyncClient(timeout=2.0) as client:
            while time.monotonic() < until_at:
                why = await self._unwell(client)
                if not why:
                    break
                await asyncio.sleep(_POLL_S)
        if why:
            raise NotHealthyError(f"after {timeout_s:g} s {why}")
        try:
            async with asyncio.timeout(max(1.0, until_at - time.monotonic())):
                await self.stack.wait_introduced()
        except TimeoutError:
            raise NotHealthyError(f"after {timeout_s:g} s a scheduler does not know its workers") from None

    async def _unwell(self, client: httpx.AsyncClient) -> str:
        for (site, name), process in self.stack.services.items():
            if process.exit_code is not None:
                return f"{site}.{name} has ended with {process.exit_code}"
            try:
                answer = await client.get(f"http://127.0.0.1:{process.http_port}/ready")
                if answer.status_code != 200:
                    return f"{site}.{name} is not ready: {answer.text[:200]}"
                if process.role == Role.DECODE_WORKER and (left := await self._requests_of(client, process)):
                    return f"{site}.{name} still has {left:g} requests"
            except httpx.HTTPError as error:
                return f"{site}.{name} does not answer: {error!r}"
        return ""

    async def _requests_of(self, client: httpx.AsyncClient, process: ServiceProcess) -> float:
        page = (await client.get(f"http://127.0.0.1:{process.http_port}/metrics")).text
        names = ("vllm:num_requests_running", "vllm:num_requests_waiting")
        return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(names))


@contextlib.asynccontextmanager
async def open_world(
    description: Description, directory: Path, progress: Callable[[str], None], respawn_s: float = RESPAWN_S
) -> AsyncIterator[World]:
    """A stack of this description with a harness, whose processes are started again when they end."""
    disk = SmallDisk(directory / HOME / "store")
    if not disk.mount():
        progress("no right to mount a small disk: nothing is done to full disks")
    supervising: asyncio.Task[None] | None = None
    try:
        async with (
            FaultHarness(directory / "harness.sock") as harness,
            Stack(description, directory, environ=harness.environ, progress=progress) as stack,
        ):
            control, bulk = [
                await BulkLane.connect(stack.sites.endpoint(HOME, account), name="chaos", timeout_s=10.0)
                for account in ("ctl", "bulk")
            ]
            world = World(stack, harness, control, bulk, disk, respawn_s)
            supervising = asyncio.create_task(world.supervise())
            try:
                yield world
            finally:
                supervising.cancel()
                await asyncio.gather(supervising, return_exceptions=True)
                await asyncio.gather(world.repaired(), return_exceptions=True)
                for lane in (control, bulk):
                    await lane.close()
    finally:
        disk.unmount()


def stop_process(process: ServiceProcess) -> None:
    """Sends SIGSTOP: connections stay open, without any answer."""
    _signal(process.pid, signal.SIGSTOP)


def resume_process(process: ServiceProcess) -> None:
    _signal(process.pid, signal.SIGCONT)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
