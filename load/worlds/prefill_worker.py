"""A prefill worker: the real PrefillCore, with jobs and shipments in the order of its shell."""

from collections import deque
from math import inf
from typing import Any, TypeVar

from load.worlds.auditing import lie
from load.worlds.clockwork import Future
from load.worlds.failure_repeater import FailureRepeater
from load.worlds.job_queue import QUEUED, RETRY_WAIT_S
from load.worlds.model import CHUNK_TOKENS, FINGERPRINT, MODEL, pieces
from load.worlds.plan import HOME
from load.worlds.readiness import Readiness
from load.worlds.seals import prefill_seals
from load.worlds.sending import QUERY_TIMEOUT_S, Sender, SenderLink, failure_of
from load.worlds.surroundings import Surroundings
from load.worlds.taken_job import Delivery, JobTaker, StoredJob, Stream, TakenJob
from prfaas.bus.errors import BusError
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.terms import Role
from prfaas.contracts.to_decode import PrefillDone, PrefillFailed, PrefillStarted
from prfaas.contracts.to_prefill import CancelPrefill, PrefillJob
from prfaas.contracts.to_scheduler import Heartbeat
from prfaas.engine.protocol import EngineError, PrefillCancelled
from prfaas.worker.faults import failure_code, fault_text
from prfaas_prefill_worker.events import CancelHeard, JobTaken, PrefillEnded, Refuse, Run
from prfaas_prefill_worker.progress import LOOK_EVERY_S
from prfaas_prefill_worker.service_core import PrefillCore

Progress = TypeVar("Progress", PrefillStarted, PrefillDone, PrefillFailed)

IDLE_TIMEOUT_S = 5.0
TAILS = 2
TAKE_TIMEOUT_S = 1.0
HEARTBEAT_S = 1.0


class PrefillWorker(JobTaker):
    def __init__(self, world: Surroundings, incarnation: str, **identity: Any) -> None:
        super().__init__(world.clockwork, **identity)
        self.world = world
        self.incarnation = incarnation
        self.jobs = world.jobs[self.site]
        self.server_clock_error_s = world.chance.uniform(-0.02, 0.02)
        self.core = PrefillCore(MODEL, FINGERPRINT, 1024, prefill_seals(self.site, world.plan.sealed).open, [HOME])
        self.link = SenderLink(self)
        self.senders: list[Sender] = []
        self.working: str | None = None
        """Request whose prefill runs now."""
        self._own: deque[TakenJob] = deque()
        self._queued: deque[TakenJob] = deque()
        self._dispatched: list[TakenJob] = []
        """Jobs that were dispatched to it and that it may hold still."""
        self._pulled: dict[str, int] = {}
        """Connection over which a pull is outstanding, by subject."""
        self._cancels: dict[str, int] = {}
        """Attempts that it was told to cancel, kept beside the core to judge it by."""
        self.repeater = FailureRepeater(self, world.network, LOOK_EVERY_S)
        self._arrived: Future[None] = Future()
        dispatched = self.site in world.plan.dispatchers
        self._readiness = Readiness(self, world.network, incarnation, self.core.observed, self._arrive, dispatched=dispatched)
        self._tails = 0
        self._room: Future[None] = Future()
        tokens = 16
        self.core.handle(PrefillEnded(tokens, tokens * world.plan.token_s))

    def start(self) -> None:
        self._readiness.start()
        self.spawn(self._work())
        self._beat()

    # ---- what comes in

    def alive_asked(self) -> str:
        return self.incarnation

    def hear_cancel(self, cancel: CancelPrefill) -> None:
        self._cancels[cancel.transfer_id] = max(cancel.attempt, self._cancels.get(cancel.transfer_id, 0))
        self.core.handle(CancelHeard(HOME, cancel))
        self.core.validate()
        self.repeater.cancelled(cancel)

    def job_arrived(self, delivery: Delivery) -> None:
        subject = delivery.stored.subject
        self._pulled.pop(subject, None)
        if subject == QUEUED:
            self._queued.append(TakenJob(self, delivery))
        elif not self._is_held(delivery.stored.job):
            self._dispatched.append(TakenJob(self, delivery))
            self._own.append(self._dispatched[-1])
        self._arrived.set()

    def _is_held(self, job: PrefillJob) -> bool:
        """Follows JobSource._is_held."""
        self._dispatched = [each for each in self._dispatched if each.held]
        return any(each.job.transfer.object_name == job.transfer.object_name for each in self._dispatched)

    def job_given_up(self, stream: Stream, stored: StoredJob) -> None:
        """Follows JobConsumer._give_up."""
        self._tell(stored.job, PrefillFailed, code=FailureCode.MAX_DELIVERIES, message="no worker finished it")
        stream.remove(stored)

    def connection_lost(self) -> None:
        for sender in list(self.senders):
            sender.connection_lost()

    def connection_restored(self) -> None:
        for sender in list(self.senders):
            sender.connection_restored()
        self._arrived.set()

    def woken(self) -> None:
        """Asks for jobs again: the pulls of a stopped process have ended."""
        self._pulled.clear()
        self._arrived.set()

    def _arrive(self) -> None:
        self._arrived.set()

    # ---- the queue

    async def _work(self) -> None:
        """Follows PrefillWorkerService._work, and JobConsumer below it."""
        while True:
            self._readiness.set(ready=True)
            if self._own:
                self._readiness.taken += 1
                self._readiness.set(ready=False)
                # A pull that stands ends by itself: a job may still come that waits here.
                self.pulls_until_s = self.clockwork.now_s + TAKE_TIMEOUT_S * self.world.chance.random()
                await self._do(self._own.popleft())
            elif self._queued:
                await self._dispatch_to_itself()
            else:
                await self._await_jobs()

    async def _await_jobs(self) -> None:
        if self.clockwork.now_s > self.pulls_until_s:
            self._pulled.clear()
        self.pulls_until_s = inf
        self._arrived = Future()
        self._pull(self.jobs.dispatched, self.name)
        if self._readiness.first_come:
            self._pull(self.jobs.queued, QUEUED)
        await self._arrived

    def _pull(self, stream: Stream, subject: str) -> None:
        if self.connected and self._pulled.get(subject) != self.connection:
            self._pulled[subject] = self.connection
            stream.pull(self, subject)

    async def _dispatch_to_itself(self) -> None:
        """Follows JobConsumer._dispatch_to_itself."""
        try:
            new = await self.jobs.dispatch(self, self._queued[0], self.name, self.incarnation)
        except BusError:
            await self.sleep(RETRY_WAIT_S)
            return
        self._queued.popleft()
        if new:
            self._pull(self.jobs.dispatched, self.name)
            self._arrived = Future()
            if not self._own:
                await self.wait([self._arrived], TAKE_TIMEOUT_S)

    async def _do(self, taken: TakenJob) -> None:
        (verdict,) = self.core.handle(JobTaken(taken.job, taken.age_s, taken.deliveries))
        if isinstance(verdict, Refuse):
            if not verdict.silent:
                self._fail_progress(taken, verdict.code, verdict.message)
            await taken.ack()
        else:
            await self._run(taken, verdict)

    # ---- one shipment

    async def _run(self, taken: TakenJob, run: Run) -> None:
        job = run.job
        self._check_worth(taken, run)
        due_at = self.monotonic_s + run.timeout_s
        sender = self._open_sender(run)
        self._tell(job, PrefillStarted, queue_s=taken.age_s, incarnation=self.incarnation)
        started_at = self.monotonic_s
        self.working = job.request_id
        try:
            await self._prefill(run, sender, due_at)
            prefill_s = self.monotonic_s - started_at
            self.core.handle(PrefillEnded(len(run.token_ids), prefill_s))
            self._tell(job, PrefillDone, prefill_s=prefill_s, ended_unix_s=self.unix_s)
            while self._tails >= TAILS:
                self._room = Future()
                await self._room
            self._tails += 1
            self.spawn(self._finish(taken, sender))
        except PrefillCancelled:
            code = FailureCode.EXPIRED if self.monotonic_s >= due_at else FailureCode.CANCELLED
            await self._give_up(taken, sender, code, "the decode worker stopped waiting")
        except Exception as error:
            await self._give_up(taken, sender, failure_code(error), fault_text(error))
        finally:
            self.working = None

    def _check_worth(self, taken: TakenJob, run: Run) -> None:
        """Notes a job that must not be run: cancelled, late, or begun by another worker before."""
        transfer = run.job.transfer
        if self._cancels.get(transfer.transfer_id, 0) >= transfer.attempt:
            self.world.violations.append(f"{self.name} computes {transfer.object_name}, which it was told to cancel")
        if transfer.nuid in self.world.forged:
            self.world.violations.append(f"{self.name} computes {transfer.object_name}, which was changed on the way")
        if taken.age_s >= run.job.timeout_s + 0.1:
            self.world.violations.append(f"{self.name} computes {transfer.object_name}, whose time is over")
        authors = self.world.authors.setdefault(transfer.nuid, set())
        authors.add((self.name, self.incarnation))
        if len(authors) > 1 and not self._queue_was_lost():
            self.world.violations.append(f"{transfer.object_name} is computed by two workers")

    def _queue_was_lost(self) -> bool:
        """Returns whether the site's server may have forgotten which jobs it had stored.

        Who puts a job in and hears nothing tries again, and then the job is stored twice. The object still has one author: the
        second one's first frame is refused."""
        return any(fault.kind == "server_restart" and fault.target == self.site for fault in self.world.plan.faults)

    async def _prefill(self, run: Run, sender: Sender, due_at: float) -> None:
        prompt = tuple(run.token_ids)
        poison = self.world.poison_of(run.job.request_id)
        lies = self.name == self.world.plan.liar
        if lies:
            self.world.lies.add(run.job.transfer.nuid)
        for number, (tokens, chunk) in enumerate(pieces(prompt, run.job.transfer.from_token)):
            if self.core.cancelled(run.job) or self.monotonic_s >= due_at:
                raise PrefillCancelled
            await self.sleep(tokens * self.world.plan.token_s * (0.8 + 0.4 * self.world.chance.random()))
            if poison == "deadly" and number == min(len(prompt) % 2, (len(prompt) - 1) // CHUNK_TOKENS):
                self.world.died_of(self.name, run.job.request_id)
                await Future()
            if poison == "broken":
                self.world.broken.append(run.job.request_id)
                raise EngineError("the engine cannot compute this prompt")
            for part in chunk:
                sender.put(lie(part) if lies else part)
        sender.finish(cached_tokens=0)

    def _open_sender(self, run: Run) -> Sender:
        transfer = run.job.transfer
        decode_worker = run.job.reply_to

        def ask_stored() -> Any:
            network = self.world.network
            return network.ask(self, decode_worker, "stored_asked", transfer.nuid, timeout_s=QUERY_TIMEOUT_S)

        sender = Sender(
            self, self.world.store, transfer, self.link, ask_stored, timeout_s=run.timeout_s, idle_timeout_s=IDLE_TIMEOUT_S,
            tenant=run.tenant, salt=f"{self.name}.{self.incarnation}", secret=run.kv_secret,
        )  # fmt: skip
        self.senders.append(sender)
        sender.open()
        return sender

    async def _finish(self, taken: TakenJob, sender: Sender) -> None:
        try:
            await sender.close()
        except Exception as error:
            if not self.core.cancelled(taken.job):
                self._fail_progress(taken, failure_of(error), fault_text(error))
        finally:
            if self.alive:
                self.senders.remove(sender)
                self._tails -= 1
                self._room.set()
                await taken.ack()

    async def _give_up(self, taken: TakenJob, sender: Sender, code: FailureCode, message: str) -> None:
        sender.abort(message)
        self.senders.remove(sender)
        if code is not FailureCode.CANCELLED:
            self._fail_progress(taken, code, message)
        await taken.ack()

    # ---- what goes out

    def _fail_progress(self, taken: TakenJob, code: FailureCode, message: str) -> None:
        """Follows ProgressTeller.failed."""
        failed = self._tell(taken.job, PrefillFailed, code=code, message=message)
        self.repeater.told(taken, failed)

    def _tell(self, job: PrefillJob, kind: type[Progress], **fields: Any) -> Progress:
        transfer = job.transfer
        progress = kind(
            transfer_id=transfer.transfer_id, attempt=transfer.attempt, nuid=transfer.nuid, worker=self.name, **fields
        )
        self.world.network.tell(self, job.reply_to, "hear_progress", self.site, progress)
        return progress

    def _beat(self) -> None:
        beat = Heartbeat(
            site=self.site,
            worker=self.name,
            incarnation=self.incarnation,
            role=Role.PREFILL,
            model=MODEL,
            fingerprint=FINGERPRINT,
            max_context_tokens=1024,
            prefill_points=self.core.observed.points(),
            kv_points=self.world.kv_points,
        )
        self.world.presence.put(self, beat)
        self.call_later(HEARTBEAT_S, self._beat)
