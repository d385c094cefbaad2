"""Decides which jobs to run. Pure: expired, cancelled, foreign and redelivered ones are refused with a reason."""

from collections import OrderedDict
from collections.abc import Callable, Collection

from prfaas.capacity.observed import ObservedTimes
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.to_prefill import JobSecret, PrefillJob
from prfaas.contracts.wire import BadMessageError, unpack_tokens
from prfaas_prefill_worker.events import CancelHeard, Event, Instruction, JobTaken, PrefillEnded, Refuse, Run

REMEMBERED_CANCELS = 4096
"""Cancels remembered, for one can overtake its job. The jobs of older ones expire by their own deadline."""


class PrefillCore:
    def __init__(
        self,
        model: str,
        fingerprint: str,
        max_context_tokens: int,
        open_job: Callable[[PrefillJob], JobSecret],
        serves: Collection[str] | None = None,
        prefill_bytes: Callable[[int], int] = lambda tokens: 0,
    ) -> None:
        """`open_job` returns a job's secret part, or raises BadMessageError. `serves`: decode sites whose jobs are taken; None:
        those of any. `prefill_bytes` returns the memory that a prefill of a number of tokens takes."""
        self._open_job = open_job
        self._prefill_bytes = prefill_bytes
        self.model = model
        self.fingerprint = fingerprint
        self.max_context_tokens = max_context_tokens
        self.serves = serves
        self.observed = ObservedTimes()
        self._cancelled: OrderedDict[tuple[str, str], int] = OrderedDict()

    def handle(self, event: Event) -> list[Instruction]:
        match event:
            case JobTaken(job, age_s, deliveries, free_bytes):
                verdict = self._vet(job, age_s, deliveries)
                return [self._fitting(verdict, free_bytes) if isinstance(verdict, Run) else verdict]
            case CancelHeard(decode_site, cancel):
                transfer = decode_site, cancel.transfer_id
                self._cancelled[transfer] = max(cancel.attempt, self._cancelled.pop(transfer, 0))
                while len(self._cancelled) > REMEMBERED_CANCELS:
                    self._cancelled.popitem(last=False)
            case PrefillEnded(tokens, prefill_s) if tokens:
                self.observed.observe(tokens, prefill_s)
        return []

    def cancelled(self, job: PrefillJob) -> bool:
        return self._cancelled.get((job.decode_site, job.transfer.transfer_id), 0) >= job.transfer.attempt

    def validate(self) -> None:
        assert len(self._cancelled) <= REMEMBERED_CANCELS

    def _fitting(self, run: Run, free_bytes: int | None) -> Instruction:
        """Refuses a prefill for which there is no memory: to begin it could end the process, and all that it has."""
        needed_bytes = self._prefill_bytes(len(run.token_ids))
        if free_bytes is None or needed_bytes <= free_bytes:
            return run
        return Refuse(
            run.job,
            FailureCode.PREFILL_MEMORY,
            f"a prefill of {len(run.token_ids)} tokens takes up to {needed_bytes / 2**20:.0f} MiB, and this worker may take "
            f"{free_bytes / 2**20:.0f} MiB now",
        )

    def _vet(self, job: PrefillJob, age_s: float, deliveries: int) -> Instruction:
        transfer = job.transfer
        if self.cancelled(job):
            return Refuse(job, FailureCode.CANCELLED, "the decode worker does not want this attempt any more", silent=True)
        if age_s >= job.timeout_s:
            return Refuse(
                job, FailureCode.EXPIRED, f"the job waited {age_s:.1f} s in the queue, of {job.timeout_s:.1f} s that it had"
            )
        if deliveries > 1:
            # Its first worker may have stored frames in this attempt's object: a second author would mix with them.
            return Refuse(
                job, FailureCode.WORKER_LOST, f"this is delivery {deliveries}: the worker that had the job before is gone"
            )
        if self.serves is not None and job.decode_site not in self.serves:
            # Each decode site costs a link and a task for good, so a job's word is not enough.
            sites = ", ".join(sorted(self.serves))
            return Refuse(job, FailureCode.BAD_JOB, f"this worker serves {sites}, the job is for decode site {job.decode_site!r}")
        if job.model != self.model:
            return Refuse(job, FailureCode.WRONG_MODEL, f"this worker serves {self.model!r}, the job wants {job.model!r}")
        if transfer.fingerprint != self.fingerprint:
            return Refuse(
                job,
                FailureCode.FINGERPRINT,
                f"this worker's KV has fingerprint {self.fingerprint}, the job wants {transfer.fingerprint}",
            )
        try:
            secret = self._open_job(job)
            token_ids = unpack_tokens(secret.token_ids)
        except BadMessageError as error:
            return Refuse(job, FailureCode.BAD_JOB, str(error))
        if len(token_ids) != transfer.prefill_tokens or not 0 < len(token_ids) <= self.max_context_tokens:
            return Refuse(
                job,
                FailureCode.BAD_JOB,
                f"{len(token_ids)} tokens came for a transfer of {transfer.prefill_tokens}, at most {self.max_context_tokens}",
            )
        if not 0 <= transfer.from_token < len(token_ids):
            return Refuse(job, FailureCode.BAD_JOB, f"the transfer begins at token {transfer.from_token} of {len(token_ids)}")
        return Run(job, token_ids, job.timeout_s - age_s, secret.tenant, secret.cache_scope, secret.kv_secret or None)
