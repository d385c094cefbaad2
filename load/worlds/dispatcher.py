"""The dispatcher of a site: the real DispatchCore and SiteQueue, with jobs taken and given as its shell does."""

from typing import Any

from load.worlds.clockwork import Timer
from load.worlds.failure_repeater import FailureRepeater
from load.worlds.job_queue import QUEUED, RETRY_WAIT_S
from load.worlds.model import MODEL
from load.worlds.plan import HOME
from load.worlds.surroundings import Surroundings
from load.worlds.taken_job import Delivery, JobTaker, StoredJob, Stream, TakenJob
from prfaas.bus.errors import BusError, BusTimeoutError, NoRespondersError
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.to_decode import PrefillFailed
from prfaas.contracts.to_prefill import CancelPrefill, DispatcherHere
from prfaas.contracts.to_scheduler import PrefillReadiness
from prfaas_scheduler.dispatch import ASK_TIMEOUT_S, ATTEMPTS, TICK_S
from prfaas_scheduler.dispatch_core import DispatchCore
from prfaas_scheduler.dispatch_events import (
    AskWorker,
    ClockTicked,
    DispatchEnded,
    DispatchResult,
    Event,
    JobCancelled,
    JobHeld,
    ReadinessHeard,
    SendHome,
    WorkerAbsent,
)
from prfaas_scheduler.dispatch_jobs import job_id_of, queued_job
from prfaas_scheduler.queue.events import Dispatch, Job, Refuse
from prfaas_scheduler.queue.objectives import Objectives
from prfaas_scheduler.queue.options import QueueOptions
from prfaas_scheduler.queue.site_queue import SiteQueue

IDLE_TICK_S = 1.0
"""Interval of ticks while no job is held: they only show which workers are silent."""


class Dispatcher(JobTaker):
    settles = False

    def __init__(self, world: Surroundings, incarnation: str, **identity: Any) -> None:
        super().__init__(world.clockwork, **identity)
        self.world = world
        self.incarnation = incarnation
        self.jobs = world.jobs[self.site]
        self.server_clock_error_s = world.chance.uniform(-0.02, 0.02)
        self._options = QueueOptions()
        self._objectives = Objectives(ttft_s=world.plan.objective_s)
        self.core = DispatchCore(SiteQueue(self._options))
        self.held: dict[str, TakenJob] = {}
        """Jobs that are neither dispatched nor refused, by id."""
        self.repeater = FailureRepeater(self, world.network, TICK_S)
        self._leaving: set[str] = set()
        self._pulled: int | None = None
        """Connection over which a pull is outstanding."""
        self._ticker: Timer | None = None

    def start(self) -> None:
        self._tick()

    # ---- what comes in

    def hear_readiness(self, readiness: PrefillReadiness) -> DispatcherHere:
        self._handle(ReadinessHeard(self.monotonic_s, readiness))
        self._pull()
        return DispatcherHere(outstanding=self.core.outstanding(readiness.worker))

    def hear_cancel(self, cancel: CancelPrefill) -> None:
        self.repeater.cancelled(cancel)
        for attempt in range(max(1, cancel.attempt - ATTEMPTS), cancel.attempt + 1):
            job_id = job_id_of(HOME, cancel.transfer_id, attempt)
            if job_id in self.held and job_id not in self._leaving:
                self._handle(JobCancelled(self.monotonic_s, job_id))
                if job_id not in self._leaving:
                    self.spawn(self.held.pop(job_id).ack())

    def job_arrived(self, delivery: Delivery) -> None:
        self._pulled = None
        taken = TakenJob(self, delivery)
        job = self._job(taken)
        known = self.held.get(job.job_id)
        self.held[job.job_id] = taken
        if known is None:
            self._handle(JobHeld(self.monotonic_s, job))
        else:
            known.forget()
        self._pull()
        self._tick_soon()

    def job_given_up(self, stream: Stream, stored: StoredJob) -> None:
        """Is told of none: prefill workers are."""

    def connection_restored(self) -> None:
        self._pull()

    def woken(self) -> None:
        self._pulled = None
        self._pull()

    # ---- the core

    def _pull(self) -> None:
        if self.core.models() and self.connected and self._pulled != self.connection:
            self._pulled = self.connection
            self.jobs.queued.pull(self, QUEUED)

    def _job(self, taken: Any) -> Job:
        """Follows Dispatcher._job."""
        left_s = taken.job.timeout_s - taken.age_s
        work_s = self.core.work_s(MODEL, taken.job.transfer.prefill_tokens, left_s)
        least_pace = self.core.least_pace(MODEL)
        return queued_job(taken, self.site, self.monotonic_s, work_s, self._objectives, self._options, least_pace=least_pace)

    def _tick_soon(self) -> None:
        if self._ticker is not None:
            self._ticker.cancelled = True
        self._ticker = self.call_later(TICK_S if self.held else IDLE_TICK_S, self._tick)

    def _tick(self) -> None:
        self._handle(ClockTicked(self.monotonic_s))
        self._tick_soon()

    def _handle(self, event: Event) -> None:
        for instruction in self.core.handle(event):
            match instruction:
                case Dispatch(job_id, worker):
                    self._leaving.add(job_id)
                    self.spawn(self._dispatch(job_id, worker, self.core.incarnation(worker)))
                case Refuse():
                    self._leaving.add(instruction.job_id)
                    self.spawn(self._refuse(instruction))
                case SendHome(job_id):
                    self._leaving.add(job_id)
                    self.spawn(self._fail(job_id, FailureCode.NO_PREFILL_WORKER, "no prefill worker is left", None))
                case AskWorker(worker):
                    self.spawn(self._ask(worker))
        self.core.validate()

    async def _ask(self, worker: str) -> None:
        """Follows Dispatcher._ask."""
        asked_at = self.monotonic_s
        try:
            await self.world.network.ask(self, worker, "alive_asked", timeout_s=ASK_TIMEOUT_S)
        except NoRespondersError:
            self._handle(WorkerAbsent(self.monotonic_s, worker, asked_at))
        except BusError:
            return

    async def _dispatch(self, job_id: str, worker: str, incarnation: str | None) -> None:
        taken = self.held[job_id]
        job = self._job(taken)
        try:
            new = await self.jobs.dispatch(self, taken, worker, incarnation)
        except BusTimeoutError:
            await self._fail(job_id, FailureCode.BROKER, "it is not known whether the job was dispatched", None)
            result = DispatchResult.KNOWN
        except BusError:
            await self.sleep(RETRY_WAIT_S)
            result = DispatchResult.FAILED
        else:
            if (again := self.held.pop(job_id)) is not taken:
                await again.ack()
            result = DispatchResult.STORED if new else DispatchResult.KNOWN
        finally:
            self._leaving.discard(job_id)
        self._handle(DispatchEnded(self.monotonic_s, job, worker, result))

    async def _refuse(self, refuse: Refuse) -> None:
        await self._fail(refuse.job_id, FailureCode.NOT_IN_TIME, refuse.message, refuse.retry_after_s)

    async def _fail(self, job_id: str, code: FailureCode, message: str, retry_after_s: float | None) -> None:
        taken = self.held.pop(job_id)
        self._leaving.discard(job_id)
        transfer = taken.job.transfer
        failed = PrefillFailed(
            transfer_id=transfer.transfer_id,
            attempt=transfer.attempt,
            nuid=transfer.nuid,
            worker=self.name,
            code=code,
            message=message,
            retry_after_s=retry_after_s,
        )
        self.world.network.tell(self, taken.job.reply_to, "hear_progress", self.site, failed)
        self.repeater.told(taken, failed)
        await taken.ack()
