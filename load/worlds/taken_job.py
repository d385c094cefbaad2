"""Processes that pull jobs, and the jobs that they have."""

from math import inf
from typing import NamedTuple, Protocol

from load.worlds.clockwork import Process, Timer
from prfaas.contracts.to_prefill import PrefillJob


class Stream(Protocol):
    """Stream of a job, as the process that has the job uses it."""

    ack_wait_s: float

    def say_in_progress(self, worker: "JobTaker", stored: "StoredJob") -> None: ...

    async def acknowledge(self, worker: Process, stored: "StoredJob") -> None: ...

    def remove(self, stored: "StoredJob") -> None: ...

    def pull(self, worker: "JobTaker", subject: str) -> None: ...


class JobTaker(Process):
    """A process that pulls jobs."""

    server_clock_error_s = 0.0
    """Error of what it knows of the server's clock."""
    pulls_until_s = inf
    """Moment at which the server has ended its pulls; none while it is idle, for it asks again and again."""

    settles = True
    """True where it hears of jobs that are not delivered again."""

    def job_arrived(self, delivery: "Delivery") -> None:
        """Takes a job that a pull has brought."""
        raise NotImplementedError

    def job_given_up(self, stream: Stream, stored: "StoredJob") -> None:
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
        """True while it waits for a pull: never delivered, or its worker has not said anything for ACK_WAIT_S."""
        self.removed = False
        self.ack_due: Timer | None = None


class Delivery(NamedTuple):
    stream: Stream
    stored: StoredJob
    deliveries: int


class TakenJob:
    """A job that a process has, kept in progress until it is settled or its time is over."""

    def __init__(self, taker: JobTaker, delivery: Delivery) -> None:
        self._taker = taker
        self._stream = delivery.stream
        self._stored = delivery.stored
        self.job: PrefillJob = delivery.stored.job
        self.deliveries = delivery.deliveries
        self.held = True
        self._keeping = taker.spawn(self._keep())

    @property
    def age_s(self) -> float:
        """Time since the server stored it first, by the server's clock as its answers show it."""
        stored_for_s = self._taker.clockwork.now_s + self._taker.server_clock_error_s - self._stored.stored_at_s
        return self.job.waited_s + max(0.0, stored_for_s)

    async def ack(self) -> None:
        self.forget()
        await self._stream.acknowledge(self._taker, self._stored)

    def forget(self) -> None:
        self.held = False
        self._keeping.cancel()

    async def _keep(self) -> None:
        until_at = self._taker.monotonic_s + self.job.timeout_s - self.age_s
        while self._taker.monotonic_s < until_at:
            await self._taker.sleep(self._stream.ack_wait_s / 5)
            self._stream.say_in_progress(self._taker, self._stored)
