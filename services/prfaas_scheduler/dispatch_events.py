"""Events that the dispatcher's core handles. Its instructions are those of the queue, and two of its own."""

from dataclasses import dataclass
from enum import StrEnum

from prfaas.contracts.to_scheduler import PrefillReadiness
from prfaas_scheduler.queue.events import Dispatch, Job, Refuse


@dataclass(frozen=True, slots=True)
class JobHeld:
    """This process has taken a job from the site's queue."""

    now_s: float
    job: Job


@dataclass(frozen=True, slots=True)
class ReadinessHeard:
    now_s: float
    readiness: PrefillReadiness


class DispatchResult(StrEnum):
    STORED = "stored"
    """The job is in its worker's own queue."""
    KNOWN = "known"
    """It had been dispatched before, by another process."""
    FAILED = "failed"
    """It is in the site's queue still."""


@dataclass(frozen=True, slots=True)
class DispatchEnded:
    now_s: float
    job: Job
    worker: str
    result: DispatchResult


@dataclass(frozen=True, slots=True)
class JobCancelled:
    now_s: float
    job_id: str


@dataclass(frozen=True, slots=True)
class ClockTicked:
    now_s: float


@dataclass(frozen=True, slots=True)
class WorkerAbsent:
    """No process subscribed under a worker's name when it was asked."""

    now_s: float
    worker: str
    asked_at: float


Event = JobHeld | ReadinessHeard | DispatchEnded | JobCancelled | ClockTicked | WorkerAbsent


@dataclass(frozen=True, slots=True)
class AskWorker:
    """Ask whether a worker is there. WorkerAbsent follows when it is not."""

    worker: str


@dataclass(frozen=True, slots=True)
class SendHome:
    """End a job that no worker of this site is left for. Its decode site prefills it itself."""

    job_id: str


Instruction = Dispatch | Refuse | AskWorker | SendHome
