"""Jobs and shorthands for the tests of a site's queue."""

from typing import Any

from prfaas_scheduler.queue.events import Dispatch, Instruction, Job, JobArrived, Refuse, WorkerReady
from prfaas_scheduler.queue.site_queue import SiteQueue

MODEL = "m"


def job(
    job_id: str, work_s: float = 1.0, *, now_s: float = 0.0, due_s: float = 10.0, expires_s: float = 120.0, **more: Any
) -> Job:
    """A job that arrives at `now_s`; `due_s` and `expires_s` count from then."""
    return Job(
        job_id=job_id,
        model=more.pop("model", MODEL),
        prefill_tokens=more.pop("prefill_tokens", round(work_s * 1000) + 1),
        work_s=work_s,
        arrived_at=now_s,
        due_at=now_s + due_s,
        expires_at=now_s + expires_s,
        **more,
    )


def arrive(queue: SiteQueue, arriving: Job) -> list[Instruction]:
    return queue.handle(JobArrived(arriving.arrived_at, arriving))


def ready(queue: SiteQueue, worker: str, now_s: float = 0.0, pace: float = 1.0) -> list[Instruction]:
    return queue.handle(WorkerReady(now_s, worker, MODEL, pace))


def busy(queue: SiteQueue, workers: int = 1, work_s: float = 0.001) -> None:
    """Adds workers that run a short job each."""
    for index in range(workers):
        ready(queue, f"w{index}")
        assert arrive(queue, job(f"first of w{index}", work_s)) == [Dispatch(f"first of w{index}", f"w{index}")]


def dispatched(instructions: list[Instruction]) -> list[str]:
    return [each.job_id for each in instructions if isinstance(each, Dispatch)]


def refused(instructions: list[Instruction]) -> list[str]:
    return [each.job_id for each in instructions if isinstance(each, Refuse)]
