"""The dispatcher of a site: takes its queued prefill jobs, holds them, and gives each to a worker when its turn has come.

JetStream keeps every job until it is dispatched, so a dispatcher may die at any moment. Two at once do no harm either: a job is
dispatched once.
"""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, Final

from nats.aio.msg import Msg

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError, BusTimeoutError, MessageTooLargeError, NoRespondersError
from prfaas.bus.job_streams import QUEUED_ACK_WAIT_S, queued_consumer
from prfaas.bus.jobs import dispatch
from prfaas.bus.server_clock import ServerClock
from prfaas.bus.subscription import Subscription
from prfaas.bus.taken_jobs import JobSource, TakenJob
from prfaas.contracts import subjects
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.to_prefill import CancelPrefill, DispatcherHere
from prfaas.contracts.to_scheduler import PrefillReadiness
from prfaas.contracts.wire import decode, encode
from prfaas.telemetry.faults import FAULTS
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.metrics.queue import QueueMetrics
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
from prfaas_scheduler.refusals import Refusals

PULL_S: Final = 1.0
"""Time after which the server ends a pull that brought nothing."""
TICK_S: Final = 0.1
RETRY_S: Final = 0.2
ASK_TIMEOUT_S: Final = 0.75
"""Wait for the answer of a quiet worker, in the own site."""
ANNOUNCE_S: Final = 0.5
"""Interval of announcements of the queue's state."""
ATTEMPTS: Final = 8
"""Attempts of one request that may be queued at once; it has fewer, one after another."""

log = get_logger(__name__)


class Dispatcher:
    """`start` and `stop` may follow one another again and again."""

    def __init__(
        self,
        bus: ControlBus,
        site: str,
        name: str,
        serves: Sequence[str],
        objectives: Objectives,
        options: QueueOptions,
        metrics: QueueMetrics,
    ) -> None:
        """`name`: of this process; `serves`: pd sites whose jobs are dispatched."""
        self._bus, self._site, self._name = bus, site, name
        self._serves = tuple(serves)
        self._objectives = objectives
        self._options = options
        self._metrics = metrics
        self.clock = ServerClock()
        """Clock of the site's server, which stamps the jobs."""
        self._changed = asyncio.Event()
        self._core = DispatchCore(SiteQueue(self._options))
        self._sources: dict[tuple[str, str], JobSource] = {}
        """Consumer by pd site and model."""
        self._held: dict[str, TakenJob] = {}
        """Jobs that are neither dispatched nor refused, by id."""
        self._leaving: set[str] = set()
        """Those of them that are being dispatched or refused."""
        self._refusals = Refusals(bus, site, name)
        self._subscriptions: list[Subscription] = []
        self._tasks: set[asyncio.Task[None]] = set()
        metrics.watch(
            jobs=lambda: len(self._core.queue),
            put_off_s=lambda: sum(queue.put_off_s for queue in self._core.queue.models.values()),
            workers=lambda: sum(len(queue.running.ready) for queue in self._core.queue.models.values()),
        )

    async def start(self) -> None:
        """Raises BusError."""
        self._core = DispatchCore(SiteQueue(self._options))
        self._subscriptions.append(await self._bus.subscribe_raw(subjects.readiness(self._site, "*"), self._hear))
        for home in self._serves:
            cancelled = partial(self._cancel, home)
            subject = subjects.cancel_prefill(self._site, home)
            self._subscriptions.append(await self._bus.subscribe(subject, CancelPrefill, cancelled))
        self._spawn(self._pull())
        self._spawn(self._tick())
        self._spawn(self._announce())
        log.info("dispatching", serves=self._serves)

    async def stop(self) -> None:
        """Gives back what is held, for the next dispatcher or the workers to take at once."""
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            await subscription.drain()
        while self._tasks:  # one whose end came with its cancellation may have begun another
            tasks, self._tasks = self._tasks, set()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        sources, self._sources = self._sources, {}
        held = [*self._held.values(), *(taken for source in sources.values() for taken in source.jobs)]
        self._held.clear()
        self._leaving.clear()
        for source in sources.values():
            await source.close()
        for taken in held:
            await taken.give_back()

    # ---- jobs in

    async def _pull(self) -> None:
        """Takes jobs of all models that a worker of the site serves, until it is cancelled."""
        while True:
            self._changed.clear()
            try:
                await self._open_sources()
                for source in list(self._sources.values()):
                    await self.clock.keep(self._bus, source.stream)
                    while source.jobs:
                        self._hold(source.jobs.popleft())
                    if not source.pulling():
                        await source.pull(PULL_S)
            except (BusError, TimeoutError) as error:
                log.warning("jobs_unreachable", site=self._site, reason=str(error) or "no answer to a pull")
                await asyncio.sleep(RETRY_S)
                continue
            except Exception as error:  # one job that cannot be queued must not take those behind it with it
                _fault(error)
                continue
            try:
                async with asyncio.timeout(PULL_S):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _open_sources(self) -> None:
        """Begins to take jobs of models that are new here. Raises BusError."""
        for home in self._serves:
            for model in self._core.models():
                if (home, model) in self._sources:
                    continue
                source = JobSource(
                    self._bus,
                    self._site,
                    home,
                    queued_consumer(model),
                    subjects.jobs(self._site, home, model),
                    QUEUED_ACK_WAIT_S,
                    self.clock,
                    self._changed.set,
                )
                await source.open()
                self._sources[home, model] = source

    def _hold(self, taken: TakenJob) -> None:
        job = self._job(taken)
        known = self._held.get(job.job_id)
        self._held[job.job_id] = taken
        if known is None:
            self._handle(JobHeld(time.monotonic(), job))
        else:  # this process was silent for too long, and has it again: the core knows it from its first delivery
            known.forget()

    def _job(self, taken: TakenJob) -> Job:
        left_s = taken.job.timeout_s - taken.age_s
        work_s = self._core.work_s(taken.job.model, taken.job.transfer.prefill_tokens, left_s)
        least_pace = self._core.least_pace(taken.job.model)
        return queued_job(taken, self._site, time.monotonic(), work_s, self._objectives, self._options, least_pace=least_pace)

    # ---- news

    async def _hear(self, message: Msg) -> None:
        """Raises BadMessageError."""
        readiness = decode(message.data, PrefillReadiness)
        if message.subject != subjects.readiness(self._site, readiness.worker):
            log.warning("readiness_of_another", subject=message.subject, claimed=readiness.worker)
            return
        models = self._core.models()
        self._handle(ReadinessHeard(time.monotonic(), readiness))
        if self._core.models() != models:
            self._changed.set()
        here = DispatcherHere(outstanding=self._core.outstanding(readiness.worker))
        await self._bus.publish_raw(message.reply, encode(here))

    def _cancel(self, decode_site: str, cancel: CancelPrefill) -> None:
        self._refusals.cancelled(decode_site, cancel)
        for attempt in range(max(1, cancel.attempt - ATTEMPTS), cancel.attempt + 1):
            job_id = job_id_of(decode_site, cancel.transfer_id, attempt)
            if job_id in self._held and job_id not in self._leaving:
                self._handle(JobCancelled(time.monotonic(), job_id))
                if job_id in self._leaving:
                    continue  # its time was over at this very moment, and it is being refused
                self._metrics.left("cancelled")
                self._spawn(self._held.pop(job_id).ack())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                self._handle(ClockTicked(time.monotonic()))
                await self._refusals.repeat()
            except Exception as error:  # the next tick comes all the same
                _fault(error)

    async def _announce(self) -> None:
        """Tells the schedulers that place prompts here what waits, again and again. Best effort: an old state grows old."""
        while True:
            try:
                announced = self._core.announcement(self._site, time.monotonic())
                for home in self._serves:
                    await self._bus.publish(subjects.queue_state(home, self._site), announced)
            except BusError as error:
                log.warning("queue_not_announced", reason=str(error))
            except Exception as error:  # the next one is told all the same
                _fault(error)
            await asyncio.sleep(ANNOUNCE_S)

    # ---- what the core wants

    def _handle(self, event: Event) -> None:
        for instruction in self._core.handle(event):
            match instruction:
                case Dispatch(job_id, worker):
                    self._leaving.add(job_id)
                    self._spawn(self._dispatch(job_id, worker, self._core.incarnation(worker)))
                case Refuse(job_id):
                    self._leaving.add(job_id)
                    self._spawn(self._fail(job_id, FailureCode.NOT_IN_TIME, instruction.message, instruction.retry_after_s))
                case SendHome(job_id):
                    self._leaving.add(job_id)
                    message = f"site {self._site} has no prefill worker of its model any more"
                    self._spawn(self._fail(job_id, FailureCode.NO_PREFILL_WORKER, message, None))
                case AskWorker(worker):
                    self._spawn(self._ask(worker))

    async def _ask(self, worker: str) -> None:
        """Asks whether a worker is there. A question without an answer says nothing: the worker may be busy."""
        asked_at = time.monotonic()
        try:
            await self._bus.request_raw(subjects.worker_alive(self._site, worker), b"", ASK_TIMEOUT_S)
        except NoRespondersError:
            self._handle(WorkerAbsent(time.monotonic(), worker, asked_at))
        except BusError:
            return

    async def _dispatch(self, job_id: str, worker: str, incarnation: str | None) -> None:
        """Gives a held job to a worker, or gives it back to the queue."""
        taken = self._held[job_id]
        job, waited_s = self._job(taken), taken.age_s
        try:
            new = await dispatch(self._bus, self._site, taken, worker, incarnation, by=self._name)
        except MessageTooLargeError as error:
            await self._fail(job_id, FailureCode.BAD_JOB, str(error), None)
            result = DispatchResult.KNOWN
        except BusTimeoutError as error:
            # It may be with the worker, and a server that lost its memory would take it a second time, for another worker.
            log.warning("job_perhaps_dispatched", job=job_id, worker=worker, reason=str(error))
            await self._fail(job_id, FailureCode.BROKER, f"it is not known whether the job was dispatched: {error}", None)
            result = DispatchResult.KNOWN
        except BusError as error:
            log.warning("job_not_dispatched", job=job_id, worker=worker, reason=str(error))
            await asyncio.sleep(RETRY_S)
            result = DispatchResult.FAILED
        else:
            if (again := self._held.pop(job_id)) is not taken:
                await again.ack()
            result = DispatchResult.STORED if new else DispatchResult.KNOWN
            self._metrics.dispatched(job.prefill_tokens, waited_s, known=not new)
        finally:
            self._leaving.discard(job_id)
        self._handle(DispatchEnded(time.monotonic(), job, worker, result))

    async def _fail(self, job_id: str, code: FailureCode, message: str, retry_after_s: float | None) -> None:
        """Removes a held job from the queue for good, and tells its decode worker why."""
        taken = self._held.pop(job_id)
        self._leaving.discard(job_id)
        log.info("job_refused", job=job_id, code=code, reason=message)
        self._metrics.left("refused")
        await self._refusals.end(taken, code, message, retry_after_s)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(_guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _guarded(work: Coroutine[Any, Any, None]) -> None:
    """Logs what one job's handling raises. Its job comes again when its time in this process is over."""
    try:
        await work
    except Exception as error:
        _fault(error)


def _fault(error: Exception) -> None:
    FAULTS.failed["dispatch"] += 1
    log.error("dispatch_failed", exc_info=error)
