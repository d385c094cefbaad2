"""Queued jobs that a dispatcher holds, as its queue sees them."""

from typing import Final

from prfaas.bus.taken_jobs import TakenJob
from prfaas_scheduler.queue.events import Job
from prfaas_scheduler.queue.objectives import Objectives
from prfaas_scheduler.queue.options import QueueOptions

PATIENCE_SHARE: Final = 1 / 3
"""Share of its request's time by which a prefill is due at the earliest: a request that may wait for long is patient."""
OWN_SHARE: Final = 1.25
"""Multiple of its own predicted time by which a prefill is due at the earliest: no objective asks for what no worker can do."""


def job_id_of(decode_site: str, transfer_id: str, attempt: int) -> str:
    """Name of a job among those of all pd sites."""
    return f"{decode_site}/{transfer_id}.{attempt}"


def queued_job(
    taken: TakenJob,
    site: str,
    now_s: float,
    work_s: float,
    objectives: Objectives,
    options: QueueOptions,
    *,
    least_pace: float = 1.0,
) -> Job:
    """Returns the job for the queue of a site. `work_s`: at pace 1; `least_pace`: of the fastest worker.

    Its dates count from the moment at which the site's server stored it first, so they are the same for each dispatcher that
    comes to hold it. It is due by the objective of its length, or later where its request is patient or its prefill takes
    longer."""
    job, transfer = taken.job, taken.job.transfer
    arrived_at = now_s - taken.age_s
    expires_at = arrived_at + job.timeout_s
    due_s = max(
        objectives.ttft_objective_s(transfer.prefill_tokens), PATIENCE_SHARE * job.timeout_s, OWN_SHARE * work_s * least_pace
    )
    due_at = min(arrived_at + due_s, expires_at)
    if job.admitted:  # what arrived long enough ago is refused no more
        arrived_at = min(arrived_at, now_s - 2 * options.refuse_within_s)
    return Job(
        job_id=job_id_of(job.decode_site, transfer.transfer_id, transfer.attempt),
        model=job.model,
        tenant=f"{job.decode_site}/{job.tenant}",
        priority=job.priority,
        prefill_tokens=transfer.prefill_tokens,
        work_s=work_s,
        arrived_at=arrived_at,
        due_at=due_at,
        expires_at=expires_at,
        worker=job.worker,
        of_other_site=job.decode_site != site,
    )
