"""Queued jobs that a dispatcher holds: as its queue sees them, and what a decode worker hears of one that is refused."""

from typing import Final

from prfaas.bus.control import ControlBus
from prfaas.bus.taken_jobs import TakenJob
from prfaas.contracts import subjects
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.to_decode import PrefillFailed
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


def queued_job(taken: TakenJob, now_s: float, work_s: float, objectives: Objectives, options: QueueOptions) -> Job:
    """Returns the job for the queue. Its dates count from the moment at which the site's server stored it first, so they are the
    same for each dispatcher that comes to hold it.

    It is due by the objective of its length, or later where its request is patient or its prefill takes longer."""
    job, transfer = taken.job, taken.job.transfer
    arrived_at = now_s - taken.age_s
    expires_at = arrived_at + job.timeout_s
    due_s = max(objectives.ttft_objective_s(transfer.prefill_tokens), PATIENCE_SHARE * job.timeout_s, OWN_SHARE * work_s)
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
    )


async def end_queued(
    bus: ControlBus, site: str, name: str, taken: TakenJob, code: FailureCode, message: str, retry_after_s: float | None
) -> None:
    """Removes a job from the site's queue, and tells its decode worker why, as process `name`. Raises BusError."""
    transfer = taken.job.transfer
    failed = PrefillFailed(
        transfer_id=transfer.transfer_id,
        attempt=transfer.attempt,
        nuid=transfer.nuid,
        worker=name,
        code=code,
        message=message,
        retry_after_s=retry_after_s,
    )
    try:
        await bus.publish(subjects.progress_from(taken.job.reply_to, site, name), failed, parent=taken.context)
    finally:
        await taken.ack()
