"""Live state for those who watch the console. Without a viewer nothing is asked, made or encoded."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

from prfaas.bus.errors import BusError
from prfaas.console.changes import Encoded
from prfaas.contracts.scheduler_state import SchedulerState
from prfaas.contracts.wire import BadMessageError
from prfaas.process.tasks import Tasks
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.wall_clock import unix_s
from prfaas_gateway.console.console_core import ConsoleCore
from prfaas_gateway.console.viewers import Viewers

TICK_S: Final = 1.0

log = get_logger(__name__)


class Console:
    def __init__(
        self, core: ConsoleCore, ask_scheduler: Callable[[], Awaitable[SchedulerState]], tasks: Tasks, max_viewers: int
    ) -> None:
        """`ask_scheduler` raises BusError or BadMessageError where no scheduler answers."""
        self.core = core
        self._ask_scheduler = ask_scheduler
        self._tasks = tasks
        self._viewers = Viewers(max_viewers)
        self._states: dict[str | None, Encoded] = {}
        """States of this tick by tenant; each is made once, however many watch it."""
        self._turned = asyncio.Event()
        """Event of the tick that comes next."""
        self._fresh = False
        self._ticking = False
        self._closed = False
        self.ticks = 0
        self._silent = False

    @contextmanager
    def watched(self, client: str) -> Iterator[None]:
        """Holds a viewer's place. Raises ApiError 429 where there is none."""
        with self._viewers.enter(client):
            if not self._ticking:
                self._ticking = True
                self._tasks.spawn("console", self._tick())
            yield

    async def states(self, tenant: str | None) -> AsyncIterator[Encoded]:
        """Yields the state at each tick until the gateway leaves; one that reads slowly misses ticks, and never the latest state.

        Call it while a place is held."""
        while not self._closed:
            turned = self._turned
            if self._fresh:
                yield self.state(tenant)
            await turned.wait()

    def state(self, tenant: str | None) -> Encoded:
        """Returns the state of this tick, as the tenant may see it; None: with the requests of all."""
        if tenant not in self._states:
            self._states[tenant] = self.core.sections(tenant, asyncio.get_running_loop().time(), unix_s())
        return self._states[tenant]

    def close(self) -> None:
        """Ends all streams."""
        self._closed = True
        self._turned.set()

    async def _tick(self) -> None:
        try:
            while len(self._viewers) and not self._closed:
                await self._ask()
                self._turn()
                await asyncio.sleep(TICK_S)
        finally:
            self._ticking = self._fresh = False
            self._states.clear()

    def _turn(self) -> None:
        self.ticks += 1
        self._states.clear()
        self._fresh = True
        turned, self._turned = self._turned, asyncio.Event()
        turned.set()

    async def _ask(self) -> None:
        try:
            state = await self._ask_scheduler()
        except (BusError, BadMessageError) as error:
            if not self._silent:
                log.info("console_without_scheduler", reason=str(error))
            self._silent = True
        else:
            self._silent = False
            self.core.handle_scheduler(state, asyncio.get_running_loop().time())
