"""The lease of a site's leading scheduler in the site's bucket, and the process's part in it."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from nats.aio.msg import Msg

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BadRevisionError, BusError, NoRespondersError, StreamError
from prfaas.bus.revised_entry import RevisedEntry
from prfaas.contracts import subjects
from prfaas.contracts.to_scheduler import Lease
from prfaas.contracts.wire import BadMessageError
from prfaas.telemetry.logs import get_logger
from prfaas_scheduler.leadership.events import (
    AskHolder,
    ConnectionLost,
    Due,
    Event,
    Follow,
    HolderGone,
    Instruction,
    Lead,
    LeaseOutrun,
    LeaseRead,
    LeaseStored,
    ReadLease,
    ReleaseAsked,
    StoreLease,
)
from prfaas_scheduler.leadership.leadership_core import LeadershipCore

LOOK_EVERY_S: Final = 0.2
"""Time between two looks at the lease, and at whether its holder is there."""
ANSWER_TIMEOUT_S: Final = 0.3
"""Time for the server, and for the holder, to answer."""
_INSTRUCTIONS_AT_ONCE: Final = 8
"""Instructions of one look: more would be a bucket that contradicts itself."""
_KEY: Final = "scheduler"

log = get_logger(__name__)


class Leadership:
    """Tells whether this process leads. Ask `leads` right before each act: it ends by time alone."""

    def __init__(self, site: str, name: str, incarnation: str, now_s: Callable[[], float] = time.monotonic) -> None:
        """`now_s` is the process's monotonic clock."""
        self._site = site
        self._now_s = now_s
        self._incarnation = incarnation
        self._core = LeadershipCore(name, incarnation)
        self._bus: ControlBus | None = None
        self._entry: RevisedEntry[Lease] | None = None
        self._losses = 0
        """Breaks of the connection that the core has heard of."""
        self._turned = asyncio.Event()
        self._problem = ""

    @property
    def leads(self) -> bool:
        """Tells whether this process may act as the leader at this moment."""
        return self._bus is not None and self._bus.losses == self._losses and self._core.leads(self._now_s())

    @property
    def term(self) -> int:
        """Number of the present leadership, of this process or another."""
        return self._core.term

    @property
    def holder(self) -> str:
        """Name of the scheduler that has the lease; empty while none is known."""
        lease = self._core.lease
        return lease.holder if lease is not None and not lease.released else ""

    async def turned(self) -> None:
        """Returns when this process has begun or ceased to lead since the last call."""
        await self._turned.wait()
        self._turned.clear()

    async def open(self, bus: ControlBus) -> None:
        """Answers other schedulers from now on. Raises BusError."""
        self._bus, self._losses = bus, bus.losses
        self._entry = RevisedEntry(bus, subjects.leader_bucket(self._site), _KEY, Lease)
        await bus.subscribe_raw(subjects.scheduler_alive(self._site, self._incarnation), self._say_alive)

    async def run(self) -> None:
        """Holds the lease or waits for it, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Renews the lease where that is due, or looks whether it can be had."""
        await self._handle(Due(self._now_s()))

    async def release(self) -> None:
        """Leads no more, and lets another one begin at once. Call it when `run` has ended."""
        if self._entry is not None:
            await self._handle(ReleaseAsked(self._now_s()))

    async def _handle(self, first: Event) -> None:
        assert self._bus is not None, "opened"
        if self._bus.losses != self._losses:
            self._losses = self._bus.losses
            for broken in self._core.handle(ConnectionLost(self._now_s())):
                await self._carry_out(broken)
        left = deque(self._core.handle(first))
        for _ in range(_INSTRUCTIONS_AT_ONCE):
            if not left:
                break
            event = await self._carry_out(left.popleft())
            if event is not None:
                left.extend(self._core.handle(event))

    async def _carry_out(self, instruction: Instruction) -> Event | None:
        assert self._entry is not None, "opened"
        try:
            match instruction:
                case ReadLease():
                    return await self._read(self._entry)
                case StoreLease(lease, revision):
                    return await self._store(self._entry, lease, revision)
                case AskHolder(incarnation):
                    return await self._ask(incarnation)
                case Lead(term):
                    self._turn("scheduler_leads", term=term)
                case Follow(reason):
                    self._turn("scheduler_follows", reason=reason)
        except (BusError, BadMessageError) as error:
            self._complain(str(error))
        return None

    async def _read(self, entry: RevisedEntry[Lease]) -> Event:
        try:
            lease, revision = await entry.read(ANSWER_TIMEOUT_S)
        except StreamError:
            # The server lost it, or never had it: then this process's connection broke as all others did.
            await entry.ensure()
            lease, revision = await entry.read(ANSWER_TIMEOUT_S)
        self._problem = ""
        return LeaseRead(self._now_s(), lease, revision)

    async def _store(self, entry: RevisedEntry[Lease], lease: Lease, revision: int) -> Event:
        try:
            stored = await entry.replace(lease, revision, ANSWER_TIMEOUT_S)
        except BadRevisionError:
            return LeaseOutrun(self._now_s())
        return LeaseStored(self._now_s(), stored)

    async def _ask(self, incarnation: str) -> Event | None:
        assert self._bus is not None, "opened"
        try:
            await self._bus.request_raw(subjects.scheduler_alive(self._site, incarnation), b"", ANSWER_TIMEOUT_S)
        except NoRespondersError:
            return HolderGone(self._now_s(), incarnation)
        return None

    async def _say_alive(self, asked: Msg) -> None:
        assert self._bus is not None, "opened"
        await self._bus.publish_raw(asked.reply, b"")

    def _turn(self, event: str, **said: object) -> None:
        log.info(event, **said)
        self._turned.set()

    def _complain(self, problem: str) -> None:
        """Logs a problem once, until the lease could be read again."""
        if not self._problem:
            log.warning("lease_unreachable", reason=problem)
        self._problem = problem
