"""Tells a job's decode worker how far its prefill is.

A failure is told again until the decode worker has done with the attempt."""

import asyncio
import time
from typing import Final

from prfaas.bus.control import ControlBus
from prfaas.bus.taken_jobs import TakenJob
from prfaas.bus.unheard_failures import UnheardFailures
from prfaas.contracts import subjects
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.to_decode import PrefillDone, PrefillFailed, PrefillProgress, PrefillStarted
from prfaas.contracts.to_prefill import CancelPrefill
from prfaas.telemetry.logs import get_logger
from prfaas.worker.faults import fault_text
from prfaas_prefill_worker.prefiller import Prefilled

LOOK_EVERY_S: Final = 0.5
"""Interval of looks for failures that are to be told again."""

log = get_logger(__name__)


class ProgressTeller:
    def __init__(self, bus: ControlBus, site: str, worker: str, incarnation: str) -> None:
        self._bus = bus
        self._site = site
        self._worker = worker
        self._incarnation = incarnation
        self._unheard = UnheardFailures()

    async def repeat(self) -> None:
        """Tells failures again that may not have been heard, until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            for subject, failed in self._unheard.take_due(time.monotonic()):
                try:
                    await self._bus.publish(subject, failed)
                except Exception as error:
                    log.warning("failure_not_repeated", transfer=failed.transfer_id, reason=fault_text(error))

    def cancelled(self, decode_site: str, cancel: CancelPrefill) -> None:
        """Takes that a decode worker has done with an attempt."""
        self._unheard.handle_cancel(decode_site, cancel)

    async def started(self, taken: TakenJob, *, direct: bool) -> None:
        """`direct`: its KV goes to the transfer's inbox, not into the object."""
        transfer = taken.job.transfer
        started = PrefillStarted(
            transfer_id=transfer.transfer_id,
            attempt=transfer.attempt,
            nuid=transfer.nuid,
            worker=self._worker,
            incarnation=self._incarnation,
            queue_s=taken.age_s,
            direct=direct,
        )
        await self._tell(taken, started)

    async def done(self, taken: TakenJob, prefilled: Prefilled, prefill_s: float, *, direct: bool) -> None:
        transfer = taken.job.transfer
        done = PrefillDone(
            transfer_id=transfer.transfer_id,
            attempt=transfer.attempt,
            nuid=transfer.nuid,
            worker=self._worker,
            prefill_s=prefill_s,
            ended_unix_s=prefilled.ended_unix_s,
            chunks=prefilled.chunks,
            direct=direct,
        )
        await self._tell(taken, done)

    async def failed(self, taken: TakenJob, code: FailureCode, message: str) -> None:
        transfer = taken.job.transfer
        failed = PrefillFailed(
            transfer_id=transfer.transfer_id,
            attempt=transfer.attempt,
            nuid=transfer.nuid,
            worker=self._worker,
            code=code,
            message=message,
        )
        await self._tell(taken, failed)

    async def _tell(self, taken: TakenJob, progress: PrefillProgress) -> None:
        try:
            subject = subjects.progress_from(taken.job.reply_to, self._site, self._worker)
            if isinstance(progress, PrefillFailed):
                now_s = time.monotonic()
                until_at = now_s + taken.job.timeout_s - taken.age_s
                self._unheard.handle_told(taken.job.decode_site, subject, progress, until_at, now_s)
            await self._bus.publish(subject, progress, parent=taken.context)
        except Exception as error:  # beside the bus's own: a reply subject of the job that is none
            log.warning("progress_not_sent", request_id=taken.job.request_id, reason=fault_text(error))
