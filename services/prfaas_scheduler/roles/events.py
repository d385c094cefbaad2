"""What the control of the workers' roles hears, and what it has its shell do."""

from dataclasses import dataclass
from enum import StrEnum

from prfaas.contracts.terms import Role


class MoveResult(StrEnum):
    DONE = "done"
    REFUSED = "refused"
    """The worker said no, or could not be reached."""
    KEPT = "kept"
    """It did not finish its work in time and is what it was."""
    LOST = "lost"
    """It was not heard of again in time."""


@dataclass(frozen=True, slots=True)
class RequestSeen:
    now_s: float
    model: str
    uncached_tokens: int


@dataclass(frozen=True, slots=True)
class RolesDue:
    """About every second."""

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
