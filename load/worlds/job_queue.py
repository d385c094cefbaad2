"""Model of a site's two work-queue streams: jobs at least once, again after a silence, a bounded number of times.

Queued jobs wait in one, the dispatched ones of each worker in the other. Names of stored jobs are remembered, so that each is
dispatched once.
"""

import math
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from msgspec.structs import replace

from load.worlds.clockwork import Clockwork, Future, Process
from load.worlds.network import NO_RESPONDERS_S, Network
from load.worlds.taken_job import Delivery, JobTaker, StoredJob, TakenJob
from prfaas.bus.errors import BusError, BusTimeoutError, NoRespondersError, StreamError
from prfaas.bus.job_streams import ACK_WAIT_S, MAX_DELIVERIES, MAX_JOBS, MAX_QUEUED_DELIVERIES, QUEUED_ACK_WAIT_S
from prfaas.contracts.to_decode import PrefillDispatched
from prfaas.contracts.to_prefill import PrefillJob

TRY_S = 2.0
"""Wait of a submission for its acknowledgement before it is sent again: JobQueue.submit."""
RETRY_WAIT_S = 0.2
PULL_EXPIRES_S = 1.0
QUEUED = "queued"
"""Subject of the jobs that wait in a site; the others are names of workers."""


class Stored(NamedTuple):
    """A stream's answer to a job."""

    sequence: int
    was_there: bool


class JobStream:
    """One stream at a site's server, in its memory: a restart loses it."""

    def __init__(
        self, clockwork: Clockwork, network: Network, site: str, *, ack_wait_s: float, max_deliveries: int, max_jobs: int
    ) -> None:
        self.site = site
        self.ack_wait_s = ack_wait_s
        self.jobs: list[StoredJob] = []
        self._clockwork = clockwork
        self._network = network
        self._max_deliveries = max_deliveries
        self._max_jobs = max_jobs
        self.forge: Callable[[PrefillJob], PrefillJob] | None = None
        """Change of the next job that is stored, by who controls the server."""
        self._known: dict[str, int] = {}
        """Sequence numbers by name. Names of all jobs that were stored: the window of duplicates outlasts a world."""
        self._pulls: dict[str, deque[tuple[JobTaker, int]]] = {}

    async def submit(self, source: Process, job: PrefillJob, *, timeout_s: float) -> int:
        """Follows JobQueue.submit. Returns the job's sequence number. Raises NoRespondersError, StreamError, BusTimeoutError."""
        deadline_at = source.monotonic_s + timeout_s
        while True:
            left_s = deadline_at - source.monotonic_s
            try:
                return (await self.store(source, job, QUEUED, job.timeout_s, max(0.0, min(TRY_S, left_s)))).sequence
            except BusTimeoutError:
                if deadline_at - source.monotonic_s <= 0:
                    raise
            except NoRespondersError:
                if self.site != job.decode_site or deadline_at - source.monotonic_s <= RETRY_WAIT_S:
                    raise
                await source.sleep(RETRY_WAIT_S)

    async def store(self, source: Process, job: PrefillJob, subject: str, useful_s: float, timeout_s: float) -> "Stored":
        """Raises NoRespondersError, StreamError, BusTimeoutError."""
        link = self._network.link_between(source.site, self.site)
        if source.connected and link is not None and link.cut and not link.silent:
            await source.sleep(NO_RESPONDERS_S)
            raise NoRespondersError(f"jobs of {self.site}")
        answer: Future[Stored] = Future()
        channel = (source, self, "submit")
        self._network.carry(channel, source, source.site, self.site, self._stored, source, job, subject, useful_s, answer)
        if not await source.wait([answer], timeout_s):
            raise BusTimeoutError(f"jobs of {self.site}", timeout_s)
        return answer.result()

    async def last_stored(self, source: Process, timeout_s: float) -> int:
        """Follows JobQueue.last_stored. Raises NoRespondersError, BusTimeoutError."""
        link = self._network.link_between(source.site, self.site)
        if source.connected and link is not None and link.cut and not link.silent:
            await source.sleep(NO_RESPONDERS_S)
            raise NoRespondersError(f"jobs of {self.site}")
        answer: Future[int] = Future()
        channel = (source, self, "last stored")
        self._network.carry(channel, source, source.site, self.site, self._asked, source, answer)
        if not await source.wait([answer], timeout_s):
            raise BusTimeoutError(f"jobs of {self.site}", timeout_s)
        return answer.result()

    def _asked(self, source: Process, answer: Future[int]) -> None:
        last = len(self._known)
        self._network.carry((self, source, "stored"), None, self.site, source.site, self._answer, source, answer, last)

    def pull(self, worker: JobTaker, subject: str) -> None:
        """Asks for the oldest job, or the next one. The worker asks again as long as it is idle."""
        self._network.carry(
            (worker, self, "pull"), worker, worker.site, self.site, self._take_pull, worker, subject, worker.connection
        )

    def say_in_progress(self, worker: JobTaker, stored: StoredJob) -> None:
        self._network.carry((worker, self, "ack"), worker, worker.site, self.site, self._keep, stored)

    async def acknowledge(self, worker: Process, stored: StoredJob) -> None:
        """Removes the job. An acknowledgement that is lost is not missed: the job comes again then."""
        self._network.carry((worker, self, "ack"), worker, worker.site, self.site, self.remove, stored)

    def remove(self, stored: StoredJob) -> None:
        if not stored.removed:
            stored.removed = True
            self.jobs.remove(stored)
            if stored.ack_due is not None:
                stored.ack_due.cancelled = True

    def lose_memory(self) -> None:
        """Restarts the server: all jobs are lost, and who waits asks again."""
        self._pulls.clear()
        for stored in list(self.jobs):
            self.remove(stored)
        self._known.clear()

    def _stored(self, source: Process, job: PrefillJob, subject: str, useful_s: float, answer: Future[Stored]) -> None:
        outcome: BusError | Stored
        name = job.transfer.object_name
        if name in self._known:
            outcome = Stored(self._known[name], was_there=True)
        elif len(self.jobs) >= self._max_jobs:
            outcome = StreamError("maximum messages exceeded")
        else:
            self._known[name] = len(self._known) + 1
            outcome = Stored(self._known[name], was_there=False)
            if self.forge is not None:
                job, self.forge = self.forge(job), None
            stored = StoredJob(subject, job, self._clockwork.now_s)
            self.jobs.append(stored)
            ends_at_s = self._clockwork.now_s + max(1, math.ceil(useful_s))
            self._clockwork.call_at(ends_at_s, None, self.remove, stored)
            self._offer(subject)
        channel = (self, source, "stored")
        self._network.carry(channel, None, self.site, source.site, self._answer, source, answer, outcome)

    def _answer(self, source: Process, answer: Future[Any], outcome: Any) -> None:
        if source.connected:
            source.call_now(answer.fail if isinstance(outcome, BusError) else answer.set, outcome)

    def _take_pull(self, worker: JobTaker, subject: str, connection: int) -> None:
        pulls = self._pulls.setdefault(subject, deque())
        for pull in [pull for pull in pulls if pull[0] is worker]:
            pulls.remove(pull)
        pulls.append((worker, connection))
        self._offer(subject)

    def _offer(self, subject: str) -> None:
        pulls = self._pulls.get(subject)
        while pulls:
            stored = next((each for each in self.jobs if each.waits and each.subject == subject), None)
            if stored is None:
                return
            worker, connection = pulls.popleft()
            if self._still_pulls(worker, connection):
                self._deliver(worker, stored)

    def _still_pulls(self, worker: JobTaker, connection: int) -> bool:
        if not worker.alive or not worker.connected or worker.connection != connection:
            return False
        if self._clockwork.now_s > worker.pulls_until_s:
            return False
        asleep_since_s = worker.asleep_since_s
        return asleep_since_s is None or self._clockwork.now_s - asleep_since_s < PULL_EXPIRES_S

    def _deliver(self, worker: JobTaker, stored: StoredJob) -> None:
        stored.deliveries += 1
        stored.waits = False
        self._await_sign(stored)
        delivery = Delivery(self, stored, stored.deliveries)
        self._network.carry((self, worker, "job"), None, self.site, self.site, self._hand_over, worker, delivery)

    def _hand_over(self, worker: JobTaker, delivery: Delivery) -> None:
        if worker.alive and worker.connected:
            worker.call_now(worker.job_arrived, delivery)

    def _await_sign(self, stored: StoredJob) -> None:
        if stored.ack_due is not None:
            stored.ack_due.cancelled = True
        stored.ack_due = self._clockwork.call_at(self._clockwork.now_s + self.ack_wait_s, None, self._silent, stored)

    def _keep(self, stored: StoredJob) -> None:
        if not stored.removed and not stored.waits:
            self._await_sign(stored)

    def _silent(self, stored: StoredJob) -> None:
        if stored.removed:
            return
        if stored.deliveries < self._max_deliveries:
            stored.waits = True
            self._offer(stored.subject)
            return
        workers = [
            each
            for each in self._network.processes.values()
            if isinstance(each, JobTaker) and each.site == self.site and each.settles
        ]
        if workers:
            workers[0].call_soon(workers[0].job_given_up, self, stored)


class SiteJobs:
    """Both streams of a site."""

    def __init__(self, clockwork: Clockwork, network: Network, site: str, max_queued: int) -> None:
        self.site = site
        self._network = network
        self.queued = JobStream(
            clockwork, network, site, ack_wait_s=QUEUED_ACK_WAIT_S, max_deliveries=MAX_QUEUED_DELIVERIES, max_jobs=max_queued
        )
        self.dispatched = JobStream(
            clockwork, network, site, ack_wait_s=ACK_WAIT_S, max_deliveries=MAX_DELIVERIES, max_jobs=MAX_JOBS
        )

    async def dispatch(self, by: JobTaker, taken: TakenJob, worker: str, incarnation: str | None) -> bool:
        """Follows jobs.dispatch. Raises StreamError, BusTimeoutError."""
        waited_s = taken.age_s
        job = replace(taken.job, waited_s=waited_s)
        was_there = (await self.dispatched.store(by, job, worker, job.timeout_s - waited_s, TRY_S)).was_there
        if not was_there:
            transfer = job.transfer
            told = PrefillDispatched(
                transfer_id=transfer.transfer_id,
                attempt=transfer.attempt,
                nuid=transfer.nuid,
                worker=worker,
                incarnation=incarnation,
            )
            self._network.tell(by, job.reply_to, "hear_progress", self.site, told)
        await taken.ack()
        return not was_there
