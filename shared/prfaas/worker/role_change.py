"""Change of a pd worker's role: it is told to, drains, and the other role's program takes over its process.

Nothing is lost on the way. New work is refused from the first moment on, and a refused request is placed elsewhere. What runs is
finished. What would take longer than the drain may is finished too, in the old role, which the worker then keeps.
"""

import asyncio
import time
from typing import Protocol

from prfaas.bus.control import ControlBus
from prfaas.contracts import subjects
from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import ChangeRoleReply, RoleChanging, RoleKept
from prfaas.contracts.to_worker import ChangeRole
from prfaas.process.runner import CHECK, Program, ServiceContext
from prfaas.telemetry.logs import get_logger
from prfaas.worker.identity import Identity

CHECK_TIMEOUT_S = 60.0

log = get_logger(__name__)


class RoleConfigError(Exception):
    """A worker is configured as movable, but its configuration does not suit the other role."""


class Work(Protocol):
    async def finish(self) -> None:
        """Takes no new work, announces that, and returns when nothing runs any more. May be cancelled while it waits."""
        ...

    async def resume(self) -> None:
        """Takes and announces work again, after a `finish` that was cancelled."""
        ...

    async def withdraw(self) -> None:
        """Tells the schedulers that this worker is gone."""
        ...


class RoleChange:
    def __init__(self, identity: Identity, context: ServiceContext, work: Work, *, movable: bool) -> None:
        self._site, self._worker, self._role = identity
        self._program = context.program if movable else None
        self._tasks = context.tasks
        self._work = work
        self._checking: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def possible(self) -> bool:
        """True when it is movable, and its configuration is known to suit the other role."""
        return self._program is not None and self._checking is not None and self._checking.done()

    async def start(self, bus: ControlBus) -> None:
        """Raises BusError."""
        if self._program is not None:
            self._checking = self._tasks.spawn("check the configuration for the other role", self._check(self._program))
        await bus.serve(subjects.change_role(self._site, self._role, self._worker), ChangeRole, self._asked)

    def give_up(self) -> None:
        """Cancels a change under way: the process is about to end, and the service drains by itself."""
        self._stopping = True
        if self._leaving is not None:
            self._leaving.cancel()

    async def _check(self, program: Program) -> None:
        """Runs at the start: found when it is told to move, an error would cost the site a worker. Raises RoleConfigError."""
        other = Role.DECODE if self._role is Role.PREFILL else Role.PREFILL
        process = await asyncio.create_subprocess_exec(
            *program.command(_program_of(other)),
            CHECK,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                _, said = await process.communicate()
        except TimeoutError:
            raise RoleConfigError(f"the check of this worker's configuration as a {other} worker did not end in time") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise RoleConfigError(
                f"this worker is movable, but it could not be a {other} worker: {said.decode(errors='replace').strip()}"
            )

    async def _asked(self, change: ChangeRole) -> ChangeRoleReply:
        if self._program is None:
            return RoleKept(reason=f"{self._role} worker {self._worker!r} is not movable")
        if change.role is self._role:
            return RoleKept(reason=f"worker {self._worker!r} is a {self._role} worker already")
        assert self._checking is not None
        await asyncio.wait([self._checking])  # if it fails, the process ends
        if self._stopping or self._leaving is not None:
            return RoleKept(reason=f"{self._role} worker {self._worker!r} is draining already")
        self._leaving = self._tasks.spawn("change role", self._leave(change))
        return RoleChanging()

    async def _leave(self, change: ChangeRole) -> None:
        assert self._program is not None
        log.info("role_change_begun", to_role=change.role.value, drain_s=change.drain_s)
        started_at = time.monotonic()
        try:
            await asyncio.wait_for(self._work.finish(), change.drain_s)
        except TimeoutError:
            log.warning("role_kept", role=self._role.value, reason=f"what runs was not finished within {change.drain_s:g} s")
            await self._work.resume()
            self._leaving = None
            return
        await self._work.withdraw()
        log.info("role_change_drained", to_role=change.role.value, drained_s=time.monotonic() - started_at)
        self._program.become(_program_of(change.role))


def _program_of(role: Role) -> str:
    """Console script of the role, without `prfaas-`."""
    return f"{role}-worker"
