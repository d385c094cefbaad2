"""Events that RoleController handles, and instructions that it returns."""

from dataclasses import dataclass
from enum import StrEnum

from prfaas.contracts.terms import Role


class MoveResult(StrEnum):
    DONE = "done"
    REFUSED = "refused"
    """The worker refused, or could not be reached."""
    KEPT = "kept"
    """The worker did not finish its work in time and keeps its role."""
    LOST = "lost"
    """The worker did not appear in its new role in time."""


@dataclass(frozen=True, slots=True)
class RequestSeen:
    now_s: float
    model: str
    uncached_tokens: int


@dataclass(frozen=True, slots=True)
class RolesDue:
    """Clock tick, about every second."""

    now_s: float


@dataclass(frozen=True, slots=True)
class MoveRefused:
    now_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class BeginMove:
    worker: str
    role: Role
    to_role: Role
    drain_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class MoveOver:
    worker: str
    to_role: Role
    result: MoveResult
    took_s: float
    reason: str


RoleEvent = RequestSeen | RolesDue | MoveRefused
RoleInstruction = BeginMove | MoveOver
