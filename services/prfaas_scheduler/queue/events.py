"""Jobs of a site's queue, the events that the queue handles, and the instructions that it returns.

`now_s` and every moment are of one monotonic clock, the one of the process that holds the queue.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One prefill that waits for a worker."""

    job_id: str
    model: str
    tenant: str = ""
    priority: int = 0
    """Jobs of a higher priority go first, and are put off for no lower one."""
    prefill_tokens: int
    work_s: float
    """Predicted time on a worker of this site of pace 1."""
    arrived_at: float
    due_at: float
    """Moment by which the prefill must end for its request to keep its TTFT objective."""
    expires_at: float
    """Moment by which the prefill must end to be of any use."""
    worker: str | None = None
    """The one worker that may take it, whose cache it is to use; None: any."""
    of_other_site: bool = False
    """True when it came from another site, which can prefill it itself."""


@dataclass(frozen=True, slots=True)
class JobArrived:
    now_s: float
    job: Job


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """A worker asks for its next job. It stays ready until a job is dispatched to it, or it is gone."""

    now_s: float
    worker: str
    model: str
    pace: float = 1.0
    """Factor of its times on the work of a job, above 0."""


@dataclass(frozen=True, slots=True)
class WorkerGone:
    now_s: float
    worker: str


@dataclass(frozen=True, slots=True)
class JobGone:
    """A job was cancelled, or has expired elsewhere. One that was dispatched already changes nothing."""

    now_s: float
    job_id: str


@dataclass(frozen=True, slots=True)
class TimePassed:
    now_s: float


Event = JobArrived | WorkerReady | WorkerGone | JobGone | TimePassed


@dataclass(frozen=True, slots=True)
class Dispatch:
    job_id: str
    worker: str


@dataclass(frozen=True, slots=True)
class Refuse:
    job_id: str
    message: str
    retry_after_s: float


Instruction = Dispatch | Refuse
