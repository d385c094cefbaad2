"""Moves of workers to the other role, on the bus."""

import time
from collections.abc import Callable
from typing import Final

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError
from prfaas.contracts import subjects
from prfaas.contracts.to_scheduler import RoleChanging, RoleKept
from prfaas.contracts.to_worker import ChangeRole
from prfaas.contracts.wire import BadMessageError
from prfaas.telemetry.faults import FAULTS
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.metrics.scheduler import SchedulerMetrics
from prfaas_scheduler.roles.controller import RoleController
from prfaas_scheduler.roles.events import BeginMove, MoveRefused, RoleInstruction, RolesDue

CHANGE_TIMEOUT_S: Final = 10.0
"""Time for a worker to answer whether it changes its role."""

log = get_logger(__name__)


class RoleMoves:
    """Carries out what a RoleController wants."""

    def __init__(self, bus: ControlBus, site: str, metrics: SchedulerMetrics, leads: Callable[[], bool]) -> None:
        """`leads` tells whether this process may move workers at this moment."""
        self._bus = bus
        self._site = site
        self._metrics = metrics
        self._leads = leads

    async def move_due(self, roles: RoleController) -> None:
        """Begins the moves that are due now, and reports those that are over."""
        try:
            for instruction in roles.handle(RolesDue(time.monotonic())):
                self._report(instruction)
                if isinstance(instruction, BeginMove) and (refusal := await self._request(instruction)):
                    for over in roles.handle(MoveRefused(time.monotonic(), refusal)):
                        self._report(over)
        except Exception as error:
            # Figures of heartbeats are solved here: a strange one may cost a move, never the process.
            FAULTS.failed["roles"] += 1
            log.error("roles_not_solved", exc_info=error)

    async def _request(self, move: BeginMove) -> str:
        """Returns why the worker does not move; empty when it does."""
        if not self._leads():
            return "this scheduler leads no more"
        subject = subjects.change_role(self._site, move.role, move.worker)
        change = ChangeRole(role=move.to_role, drain_s=move.drain_s)
        try:
            reply = await self._bus.request(subject, change, RoleChanging | RoleKept, CHANGE_TIMEOUT_S)
        except (BusError, BadMessageError) as error:
            return str(error)
        return reply.reason if isinstance(reply, RoleKept) else ""

    def _report(self, instruction: RoleInstruction) -> None:
        worker, to_role = instruction.worker, instruction.to_role.value
        if isinstance(instruction, BeginMove):
            log.info("worker_moves", worker=worker, to_role=to_role, reason=instruction.reason)
            self._metrics.move(to_role, "begun")
        else:
            result = instruction.result.value
            log.info(
                "worker_move_over", worker=worker, to_role=to_role, result=result, took_s=instruction.took_s,
                reason=instruction.reason,
            )  # fmt: skip
            self._metrics.move(to_role, result)
