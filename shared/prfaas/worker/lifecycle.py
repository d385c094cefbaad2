"""Life of a worker process, whatever its role: connects, announces itself, drains, and lets its role be changed."""

from collections.abc import Callable, Sequence
from typing import Protocol

from prfaas.bus.endpoint import NatsEndpoint
from prfaas.bus.presence import Announcer
from prfaas.contracts.to_scheduler import Heartbeat
from prfaas.process.runner import ServiceContext
from prfaas.worker.freed_memory import give_back_freed_memory
from prfaas.worker.identity import Identity
from prfaas.worker.role_change import RoleChange
from prfaas.worker.site_connections import SiteConnections


class Worker(Protocol):
    """Parts of a worker that differ by role."""

    def problem(self) -> str | None:
        """Reason why the role's own needs are not met now; None when they are."""
        ...

    async def finish_work(self) -> None:
        """Returns when nothing runs any more; new work is refused from now on. May be cancelled while it waits."""
        ...

    def resume_work(self) -> None:
        """Takes work again, after a `finish_work` that was cancelled."""
        ...

    async def leave(self) -> None:
        """Gives back what the worker holds of others; called once it is no longer announced."""
        ...


class WorkerLifecycle:
    def __init__(self, identity: Identity, context: ServiceContext, worker: Worker, *, movable: bool) -> None:
        self.leaving = False
        """The worker takes no new work and says so."""
        self._identity = identity
        self._tasks = context.tasks
        self._worker = worker
        self._role_change = RoleChange(identity, context, self, movable=movable)
        self._connections: SiteConnections | None = None
        self._announcer: Announcer | None = None

    @property
    def movable(self) -> bool:
        return self._role_change.possible

    async def connect(self, control: NatsEndpoint, bulk: NatsEndpoint) -> SiteConnections:
        """Raises NotConnectedError, LaneError."""
        self._connections = await SiteConnections.open(control, bulk, self._identity.worker)
        return self._connections

    async def announce(self, sites: Sequence[str], heartbeat: Callable[[], Heartbeat]) -> None:
        """Tells the schedulers of `sites` about the worker from now on. Raises BusError."""
        assert self._connections is not None, "announced before it is connected"
        self._announcer = Announcer(self._connections.bus, sites, heartbeat)
        await self._role_change.start(self._connections.bus)
        self._tasks.spawn("announce", self._announcer.run())
        self._tasks.spawn("give back freed memory", give_back_freed_memory())

    def ready(self) -> str | None:
        """Reason why the worker cannot take work now; None when it can.

        It needs both connections, what its role needs, and a site that hears of it."""
        assert self._connections is not None and self._announcer is not None, "asked before it is announced"
        return self._connections.down() or self._worker.problem() or self._announcer.problem

    async def drain(self) -> None:
        self._role_change.give_up()
        await self.finish()
        await self.withdraw()

    async def finish(self) -> None:
        """Takes no new work, announces that, and returns when nothing runs any more. May be cancelled while it waits."""
        assert self._announcer is not None, "drained before it is announced"
        # Announced first: a request that is refused then and asks the scheduler again is not sent here once more.
        self.leaving = True
        await self._announcer.beat()
        await self._worker.finish_work()

    async def resume(self) -> None:
        """Takes and announces work again, after a `finish` that was cancelled."""
        assert self._announcer is not None, "resumed before it is announced"
        self.leaving = False
        self._worker.resume_work()
        await self._announcer.beat()

    async def withdraw(self) -> None:
        """Tells the schedulers that the worker is gone."""
        assert self._announcer is not None, "withdrawn before it is announced"
        await self._announcer.withdraw()
        await self._worker.leave()

    async def close(self) -> None:
        """Closes the connections, also after a start that failed half-way."""
        if self._connections is not None:
            await self._connections.close()
