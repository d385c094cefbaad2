"""Queued jobs that end without a worker: their decode workers hear why, again until they have done with the attempt."""

import time

from prfaas.bus.control import ControlBus
from prfaas.bus.taken_jobs import TakenJob
from prfaas.bus.unheard_failures import UnheardFailures
from prfaas.contracts import subjects
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.to_decode import PrefillFailed
from prfaas.contracts.to_prefill import CancelPrefill


class Refusals:
    """Refusals of one dispatcher."""

    def __init__(self, bus: ControlBus, site: str, name: str) -> None:
        """`name`: of the dispatcher's process."""
        self._bus = bus
        self._site = site
        self._name = name
        self._unheard = UnheardFailures()

    async def end(self, taken: TakenJob, code: FailureCode, message: str, retry_after_s: float | None) -> None:
        """Removes a job from the site's queue, and tells its decode worker why. Raises BusError."""
        transfer = taken.job.transfer
        failed = PrefillFailed(
            transfer_id=transfer.transfer_id,
            attempt=transfer.attempt,
            nuid=transfer.nuid,
            worker=self._name,
            code=code,
            message=message,
            retry_after_s=retry_after_s,
        )
        now_s = time.monotonic()
        until_at = now_s + taken.job.timeout_s - taken.age_s
        try:
            subject = subjects.progress_from(taken.job.reply_to, self._site, self._name)
            self._unheard.handle_told(taken.job.decode_site, subject, failed, until_at, now_s)
            await self._bus.publish(subject, failed, parent=taken.context)
        finally:
            await taken.ack()

    async def repeat(self) -> None:
        """Tells again what is due. Raises BusError."""
        for subject, failed in self._unheard.take_due(time.monotonic()):
            await self._bus.publish(subject, failed)

    def cancelled(self, decode_site: str, cancel: CancelPrefill) -> None:
        """Takes that a decode worker has done with an attempt."""
        self._unheard.handle_cancel(decode_site, cancel)
