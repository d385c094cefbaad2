"""Refusals of a site's queue, in words for the client."""

from prfaas_scheduler.queue.events import Job, Refuse

MIN_RETRY_AFTER_S = 1.0


def refusal(job: Job, why: str, retry_after_s: float = 0.0) -> Refuse:
    message = f"a prompt of {job.prefill_tokens} tokens cannot be prefilled in time: {why}"
    return Refuse(job.job_id, message, max(MIN_RETRY_AFTER_S, retry_after_s))
