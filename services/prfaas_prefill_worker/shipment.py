"""One job from taken to shipped: prefill on the engine's thread, its KV into the sender, the tail beside the next job."""

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from prfaas.bus.taken_jobs import TakenJob
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.to_prefill import CancelPrefill
from prfaas.engine.protocol import PrefillCancelled
from prfaas.process.runner import ServiceContext
from prfaas.telemetry.logs import get_logger
from prfaas.transfer.direct_inbox import MAX_DIRECT_BYTES
from prfaas.transfer.direct_sender import DirectSender
from prfaas.transfer.errors import TransferError
from prfaas.transfer.send_options import SendOptions
from prfaas.transfer.sender import KVSender
from prfaas.worker.faults import failure_code, fault_text
from prfaas.worker.site_connections import SiteConnections
from prfaas_prefill_worker.config import PrefillWorkerConfig
from prfaas_prefill_worker.events import PrefillEnded, Refuse, Run
from prfaas_prefill_worker.job_record import JobRecord, JobRecords
from prfaas_prefill_worker.links import Links
from prfaas_prefill_worker.prefiller import Prefiller
from prfaas_prefill_worker.progress import ProgressTeller
from prfaas_prefill_worker.pulls.pulls import Pulls
from prfaas_prefill_worker.service_core import PrefillCore

MAX_DIRECT_TAIL_BYTES = 64 << 20
"""Largest KV of all small transfers that wait for their decode workers' word."""

log = get_logger(__name__)


class Shipments:
    """Runs jobs one at a time, and lets the last frames of up to `config.tails` earlier ones leave meanwhile."""

    def __init__(
        self,
        config: PrefillWorkerConfig,
        context: ServiceContext,
        connections: SiteConnections,
        prefiller: Prefiller,
        core: PrefillCore,
        incarnation: str,
    ) -> None:
        self.links = Links(config.identity, connections.bus, context.tasks, config.link)
        self._config = config
        self._tasks = context.tasks
        self._lane = connections.lane
        self._prefiller = prefiller
        self._core = core
        self._records = JobRecords(config.identity, prefiller.description.model, context.tracing, context.registry)
        self._progress = ProgressTeller(connections.bus, config.site, config.name, incarnation)
        self.pulls: Pulls | None = None
        """Set once jobs may name a prefix to be pulled."""
        self._room = asyncio.Semaphore(config.tails)
        self._direct_bytes = 0
        """KV of small transfers that is not verified yet."""
        self._direct_left = asyncio.Event()
        self._tails: set[asyncio.Task[None]] = set()

    async def refuse(self, taken: TakenJob, refuse: Refuse) -> None:
        self._records.refused(refuse)
        if not refuse.silent:
            await self._progress.failed(taken, refuse.code, refuse.message)
        await taken.ack()

    async def fail(self, taken: TakenJob, error: Exception) -> None:
        """Ends a job that could not be begun, for a reason that nothing foresaw."""
        try:
            self._records.broke(taken, error)
        finally:  # the decode worker hears of it and the queue is rid of it, whatever becomes of the figures
            await self._progress.failed(taken, FailureCode.INTERNAL, fault_text(error))
            await taken.ack()

    async def run(self, taken: TakenJob, run: Run) -> None:
        """Returns when the next job may be prefilled."""
        with JobRecord(self._records, taken, len(run.token_ids)) as record:
            due_at = time.monotonic() + run.timeout_s
            if self.pulls is not None and run.job.pull is not None:
                # Before anything is told or sent: until then the job waits, and its decode worker's clocks for frames do not run.
                record.pulled(await self.pulls.pull(run, lambda: self._core.cancelled(run.job)))
                run = replace(run, timeout_s=max(0.0, due_at - time.monotonic()))
            sender = self._open_sender(run)
            direct = isinstance(sender, DirectSender)
            await self._progress.started(taken, direct=direct)
            started_at = time.monotonic()
            try:
                prefilled = await self._prefiller.prefill(
                    run, sender, lambda: self._core.cancelled(run.job) or time.monotonic() >= due_at
                )
                prefill_s = time.monotonic() - started_at
                record.prefilled(prefill_s, prefilled)
                # What the link made it wait for is no part of T_prefill: a policy would take a slow link for a slow machine.
                self._core.handle(PrefillEnded(len(run.token_ids) - prefilled.cached_tokens, prefill_s - sender.blocked_s))
                await self._progress.done(taken, prefilled, prefill_s, direct=direct)
                await self._until_room(sender)
                self._spawn_tail(taken, sender, record)
            except PrefillCancelled:
                code = FailureCode.EXPIRED if time.monotonic() >= due_at else FailureCode.CANCELLED
                record.given_up(code, "the decode worker stopped waiting")
                await self._give_up(taken, sender, code, "the decode worker stopped waiting")
            except Exception as error:  # an engine raises more than EngineError: torch's own, MemoryError; they end this job only
                code = failure_code(error)
                await self._give_up(taken, sender, code, fault_text(error))
                record.given_up(code, fault_text(error))

    async def repeat_failures(self) -> None:
        """Tells failures again that may not have been heard, until it is cancelled."""
        await self._progress.repeat()

    def cancelled(self, decode_site: str, cancel: CancelPrefill) -> None:
        """Takes that a decode worker has done with an attempt."""
        self._progress.cancelled(decode_site, cancel)

    async def settled(self) -> None:
        """Returns when no transfer is under way any more."""
        while self._tails:
            await asyncio.wait(self._tails)

    def _open_sender(self, run: Run) -> KVSender | DirectSender:
        options = SendOptions(
            timeout_s=run.timeout_s,
            tenant=run.tenant,
            idle_timeout_s=self._config.idle_timeout_s,
            buffer_bytes=self._config.unsent_mib << 20,
            lossy=self._config.engine.lossy_kv,
            # No other client could read the object of a sealed transfer.
            object_digest=run.kv_secret is None,
            secret=run.kv_secret,
        )
        link = self.links.to(run.job.decode_site)
        transfer, layout = run.job.transfer, self._prefiller.description.layout
        is_small = layout.total_bytes(transfer.prefill_tokens, transfer.from_token) <= MAX_DIRECT_BYTES
        if transfer.direct_inbox is not None and is_small and run.job.decode_site == self._config.site:
            return DirectSender(self._lane, transfer, layout, link.core, options).open()
        return KVSender(self._lane, transfer, layout, link, options).open()

    async def _until_room(self, sender: KVSender | DirectSender) -> None:
        """Waits for room for one more tail. Small ones have room of their own, in bytes: they wait for a decode worker, and one
        that stands still must not keep the next job from being begun."""
        if not isinstance(sender, DirectSender):
            await self._room.acquire()
            return
        while self._direct_bytes and self._direct_bytes + sender.size_bytes > MAX_DIRECT_TAIL_BYTES:
            self._direct_left.clear()
            await self._direct_left.wait()
        self._direct_bytes += sender.size_bytes

    def _spawn_tail(self, taken: TakenJob, sender: KVSender | DirectSender, record: JobRecord) -> None:
        finish = self._guarded(taken, self._finish(taken, sender, record))
        tail = self._tasks.spawn(f"tail {taken.job.transfer.object_name}", finish)
        self._tails.add(tail)
        tail.add_done_callback(self._tails.discard)

    async def _guarded(self, taken: TakenJob, finish: Coroutine[Any, Any, None]) -> None:
        """Logs what a tail raises, such as a figure that cannot be kept: the task's own end would be the process's."""
        try:
            await finish
        except Exception as error:
            log.error("tail_broke", request_id=taken.job.request_id, exc_info=error)

    async def _finish(self, taken: TakenJob, sender: KVSender | DirectSender, record: JobRecord) -> None:
        try:
            record.sending()
            record.sent(await sender.close())
            await self.links.report(taken.job.decode_site)
        except Exception as error:
            code = error.code if isinstance(error, TransferError) else FailureCode.INTERNAL
            if not self._core.cancelled(taken.job) and code is not FailureCode.CANCELLED:
                await self._progress.failed(taken, code, fault_text(error))
            record.not_sent(code, fault_text(error))
        finally:
            if isinstance(sender, DirectSender):
                self._direct_bytes -= sender.size_bytes
                self._direct_left.set()
            else:
                self._room.release()
            await taken.ack()
            record.over()

    async def _give_up(self, taken: TakenJob, sender: KVSender | DirectSender, code: FailureCode, message: str) -> None:
        await sender.abort(message)
        if code is not FailureCode.CANCELLED:
            await self._progress.failed(taken, code, message)
        await taken.ack()
