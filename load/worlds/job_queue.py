"""Model of a work-queue stream: jobs at least once, again after ACK_WAIT_S without a sign, at most MAX_DELIVERIES times."""

import math
from collections import deque
from math import inf
from typing import NamedTuple

from load.worlds.clockwork import Clockwork, Future, Process, Timer
from load.worlds.network import NO_RESPONDERS_S, Network
from prfaas.bus.errors import BusError, BusTimeoutError, NoRespondersError, StreamError
from prfaas.bus.job_streams import ACK_WAIT_S, MAX_DELIVERIES
from prfaas.bus.taken_jobs import ACK_TIMEOUT_S
from prfaas.contracts.to_prefill import PrefillJob

TRY_S = 2.0
"""Wait of a submission for its acknowledgement before it is sent again: JobQueue.submit."""
PULL_EXPIRES_S = 1.0
SHARED, DEFERRED = "shared", "deferred"


class JobTaker(Process):
    """A process that pulls jobs."""

    pulls_until_s = inf
    """Moment at which the server has ended its pulls; none while it is idle, for it asks again and again."""

    def job_arrived(self, delivery: "Delivery") -> None:
        """Takes a job that a pull has brought."""
        raise NotImplementedError

    def job_given_up(self, stored: "StoredJob") -> None:
        """Takes that the stream will not deliver a job again."""
        raise NotImplementedError


class StoredJob:
    """One message of the stream."""

    def __init__(self, subject: str, job: PrefillJob, stored_at_s: float) -> None:
        self.subject = subject
        self.job = job
        self.stored_at_s = stored_at_s
        self.deliveries = 0
        self.waits = True
        """Whether it waits for a pull: never delivered, or its worker has not said anything for ACK_WAIT_S."""
        self.removed = False
        self.ack_due: Timer | None = None


class Delivery(NamedTuple):
    stored: StoredJob
    deliveries: int


class JobStream:
    """The stream at one site's server. Its store is a file: it survives the server."""

    def __init__(self, clockwork: Clockwork, network: Network, site: str, max_jobs: int) -> None:
        self.site = site
        self.jobs: list[StoredJob] = []
        self._clockwork = clockwork
        self._network = network
        self._max_jobs = max_jobs
        self._known: set[str] = set()
        """Names of all jobs that were stored: the window of duplicates outlasts a world."""
        self._pulls: dict[str, deque[tuple[JobTaker, int]]] = {}

    async def submit(self, source: Process, job: PrefillJob, *, timeout_s: float, subject: str) -> None:
        """Follows JobQueue.submit. Raises NoRespondersError, StreamError, BusTimeoutError."""
        deadline_at = source.monotonic_s + timeout_s
        while True:
            left_s = deadline_at - source.monotonic_s
            try:
                await self._store(source, job, subject, max(0.0, min(TRY_S, left_s)))
                return
            except BusTimeoutError:
                if deadline_at - source.monotonic_s <= 0:
                    raise

    def pull(self, worker: JobTaker, subject: str) -> None:
        """Asks for the oldest job, or the next one. The worker asks again as long as it is idle."""
        self._network.carry((worker, "pull"), worker, worker.site, self.site, self._take_pull, worker, subject, worker.connection)

    def say_in_progress(self, worker: JobTaker, stored: StoredJob) -> None:
        self._network.carry((worker, "ack"), worker, worker.site, self.site, self._keep, stored)

    async def acknowledge(self, worker: Process, stored: StoredJob) -> None:
        """Removes the job. A lost acknowledgement is only waited for: the job comes again then."""
        answer: Future[None] = Future()
        self._network.carry((worker, "ack"), worker, worker.site, self.site, self._acknowledged, worker, stored, answer)
        await worker.wait([answer], ACK_TIMEOUT_S)

    def remove(self, stored: StoredJob) -> None:
        if not stored.removed:
            stored.removed = True
            self.jobs.remove(stored)
            if stored.ack_due is not None:
                stored.ack_due.cancelled = True

    def forget_pulls(self) -> None:
        """Restarts the server: who waits asks again."""
        self._pulls.clear()

    async def _store(self, source: Process, job: PrefillJob, subject: str, timeout_s: float) -> None:
        link = self._network.link_between(source.site, self.site)
        if source.connected and link is not None and link.cut and not link.silent:
            await source.sleep(NO_RESPONDERS_S)
            raise NoRespondersError(f"jobs of {self.site}")
        answer: Future[None] = Future()
        channel = (source, self.site, "submit")
        self._network.carry(channel, source, source.site, self.site, self._stored, source, job, subject, answer)
        if not await source.wait([answer], timeout_s):
            raise BusTimeoutError(f"jobs of {self.site}", timeout_s)
        answer.result()

    def _stored(self, source: Process, job: PrefillJob, subject: str, answer: Future[None]) -> None:
        error: BusError | None = None
        if job.transfer.object_name not in self._known:
            if len(self.jobs) >= self._max_jobs:
                error = StreamError("maximum messages exceeded")
            else:
                self._known.add(job.transfer.object_name)
                stored = StoredJob(subject, job, self._clockwork.now_s)
                self.jobs.append(stored)
                ends_at_s = self._clockwork.now_s + max(1, math.ceil(job.timeout_s))
                self._clockwork.call_at(ends_at_s, None, self.remove, stored)
                self._offer(subject)
        self._network.carry((self, source, "stored"), None, self.site, source.site, self._answer, source, answer, error)

    def _answer(self, source: Process, answer: Future[None], error: BusError | None) -> None:
        if source.connected:
            call = answer.set if error is None else answer.fail
            source.call_soon(call, error)

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
        delivery = Delivery(stored, stored.deliveries)
        self._network.carry((self, worker, "job"), None, self.site, self.site, self._hand_over, worker, delivery)

    def _hand_over(self, worker: JobTaker, delivery: Delivery) -> None:
        if worker.alive and worker.connected:
            worker.call_soon(worker.job_arrived, delivery)

    def _await_sign(self, stored: StoredJob) -> None:
        if stored.ack_due is not None:
            stored.ack_due.cancelled = True
        stored.ack_due = self._clockwork.call_at(self._clockwork.now_s + ACK_WAIT_S, None, self._silent, stored)

    def _keep(self, stored: StoredJob) -> None:
        if not stored.removed and not stored.waits:
            self._await_sign(stored)

    def _silent(self, stored: StoredJob) -> None:
        if stored.removed:
            return
        if stored.deliveries < MAX_DELIVERIES:
            stored.waits = True
            self._offer(stored.subject)
            return
        workers = [each for each in self._network.processes.values() if isinstance(each, JobTaker) and each.site == self.site]
        if workers:
            workers[0].call_soon(workers[0].job_given_up, stored)

    def _acknowledged(self, worker: Process, stored: StoredJob, answer: Future[None]) -> None:
        self.remove(stored)
        self._network.carry((self, worker, "acked"), None, self.site, worker.site, self._answer, worker, answer, None)
