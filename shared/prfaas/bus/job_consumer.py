"""Jobs of one prefill worker: dispatched to it, or, while no dispatcher answers, dispatched by itself to itself."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Annotated, Final, Self

import msgspec
from nats.aio.msg import Msg
from nats.js.api import RawStreamMsg

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError, NotConnectedError
from prfaas.bus.jetstream import call
from prfaas.bus.job_streams import (
    ACK_WAIT_S,
    MAX_DELIVERIES,
    MAX_JOBS,
    MAX_QUEUED_DELIVERIES,
    OWN_CONSUMER_INACTIVE_S,
    QUEUED_ACK_WAIT_S,
    ensure_job_streams,
    queued_consumer,
    worker_consumer,
)
from prfaas.bus.jobs import dispatch
from prfaas.bus.server_clock import ServerClock
from prfaas.bus.taken_jobs import JobSource, TakenJob
from prfaas.contracts import subjects
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.to_decode import PrefillFailed
from prfaas.contracts.to_prefill import PrefillJob
from prfaas.contracts.wire import BadMessageError, decode, decode_json
from prfaas.telemetry.faults import FAULTS
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.tracing import extract

_log = get_logger(__name__)
_RETRY_WAIT_S: Final = 0.2
_ARRIVES_WITHIN_S: Final = 1.0


class JobConsumer:
    """Takes jobs one at a time. Pd sites get their turn where the worker dispatches to itself."""

    def __init__(
        self,
        bus: ControlBus,
        site: str,
        model: str,
        worker: str,
        incarnation: str,
        serves: Sequence[str],
        ack_wait_s: float,
        queued_ack_wait_s: float,
    ) -> None:
        self.clock = ServerClock()
        """Clock of the site's server, which stamps the jobs."""
        self.problem: str | None = None
        """Reason why no job can be taken, for readiness; None while the queue answers."""
        self.taken = 0
        """Jobs that were taken from the worker's own queue."""
        self._bus = bus
        self._site = site
        self._worker = worker
        self._incarnation = incarnation
        self._serves = tuple(serves)
        self._changed = asyncio.Event()
        self._ack_wait_s, self._queued_ack_wait_s = ack_wait_s, queued_ack_wait_s
        changed = self._changed.set
        own_subject = subjects.dispatched_jobs(site, worker)
        self._own = JobSource(bus, site, None, worker_consumer(worker), own_subject, ack_wait_s, self.clock, changed)
        self._queued = [
            JobSource(
                bus,
                site,
                home,
                queued_consumer(model),
                subjects.jobs(site, home, model),
                queued_ack_wait_s,
                self.clock,
                changed,
            )
            for home in serves
        ]
        self._turn = 0
        self._first_come = True

    @property
    def first_come(self) -> bool:
        """True while no dispatcher answers: the worker takes queued jobs itself, first come, first served."""
        return self._first_come

    @first_come.setter
    def first_come(self, first_come: bool) -> None:
        self._first_come = first_come
        self._changed.set()  # an idle worker begins to ask the other queues, or ceases to

    @classmethod
    async def open(
        cls,
        bus: ControlBus,
        site: str,
        model: str,
        worker: str,
        *,
        incarnation: str,
        serves: Sequence[str],
        ack_wait_s: float = ACK_WAIT_S,
        queued_ack_wait_s: float = QUEUED_ACK_WAIT_S,
    ) -> Self:
        """Makes the streams and the consumers where they are missing. `serves`: pd sites whose jobs are taken.

        Raises StreamError, BusTimeoutError, NotConnectedError."""
        consumer = cls(bus, site, model, worker, incarnation, serves, ack_wait_s, queued_ack_wait_s)
        await consumer._ensure()
        await consumer.clock.keep(bus, consumer._own.stream)
        for source in (consumer._own, *consumer._queued):
            await source.open()
            advisory = f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{source.stream}.{source.consumer}"
            await bus.subscribe_raw(advisory, partial(consumer._give_up, source.stream), queue="jobs")
        for asked in (subjects.worker_alive(site, worker), subjects.prefill_alive(site, worker, incarnation)):
            await bus.subscribe_raw(asked, consumer._say_alive)
        return consumer

    async def take(self, timeout_s: float) -> TakenJob | None:
        """Returns the worker's next job; None when none came within `timeout_s`, or the queue could not be reached (which is
        logged).

        Raises NotConnectedError when the connection is closed for good."""
        return await self._take(time.monotonic() + timeout_s, self._next)

    async def take_last(self, timeout_s: float) -> TakenJob | None:
        """Returns the next job that is this worker's already. Asks for no others."""
        return await self._take(time.monotonic() + timeout_s, self._next_own)

    async def waiting(self) -> int:
        """Counts the jobs that no worker has; 0 while the queues cannot be asked."""
        waiting = 0
        for source in self._queued:
            with contextlib.suppress(BusError):  # `take` says what is wrong
                waiting += await source.pending()
        return waiting

    async def _take(self, until_at: float, look: Callable[[float], Awaitable[bool]]) -> TakenJob | None:
        if self._bus.connected:
            await self.clock.keep(self._bus, self._own.stream)
        while True:
            if self._own.jobs:
                self.taken += 1
                return self._own.jobs.popleft()
            if self._bus.closed.is_set():
                raise NotConnectedError(f"jobs of site {self._site} cannot be taken: the connection is closed")
            left_s = until_at - time.monotonic()
            if left_s <= 0:
                return None
            try:
                found = await look(left_s)
                self.problem = None
                if not found:
                    return None
            except (BusError, TimeoutError) as error:
                self.problem = f"the job queue of site {self._site} cannot be used: {str(error) or 'no answer to a pull'}"
                _log.warning("jobs_unreachable", site=self._site, reason=str(error) or "no answer to a pull")
                await asyncio.sleep(min(_RETRY_WAIT_S, max(0.0, until_at - time.monotonic())))
                await self._restore()

    async def _next(self, wait_s: float) -> bool:
        """Returns when a job may have arrived. A queue is asked only when those before it are empty, since a job that it gives is
        taken from the other workers. An idle worker waits for all of them: then several jobs may come at once, and wait here."""
        if await self._dispatch_to_itself():
            return True
        for source in self._in_turn():
            if not source.pulling():
                await source.pull(0.0)
                await self._wait(lambda source=source: not source.pulling())  # type: ignore[misc]
                if self._arrived():
                    return True
        sources = self._in_turn()
        for source in sources:
            if not source.pulling():
                await source.pull(wait_s)
        await self._wait(
            lambda: self._arrived() or len(sources) != len(self._in_turn()) or not all(source.pulling() for source in sources)
        )
        return True

    async def _dispatch_to_itself(self) -> bool:
        """Puts the next queued job that has come here into the worker's own queue. Returns whether there was one.

        Raises BusError; the job is still here then."""
        for source in self._in_turn(queued=True):
            if source.jobs:
                taken = source.jobs[0]
                new = await dispatch(self._bus, self._site, taken, self._worker, self._incarnation, by=self._worker)
                source.jobs.popleft()
                self._turn += 1
                if new:  # it comes at once, and nothing else is asked for until it is here
                    if not self._own.pulling():
                        await self._own.pull(_ARRIVES_WITHIN_S)
                    await self._wait(lambda: bool(self._own.jobs) or not self._own.pulling())
                return True
        return False

    def _in_turn(self, *, queued: bool = False) -> list[JobSource]:
        """The worker's own queue, then, while no dispatcher answers, those of the pd sites, each the first one in its turn.

        `queued`: only the latter, also after a dispatcher has come back: what was on the way is taken all the same."""
        first = self._turn % len(self._queued)
        turn = self._queued[first:] + self._queued[:first]
        if queued:
            return turn
        return [self._own, *turn] if self.first_come else [self._own]

    def _arrived(self) -> bool:
        return any(source.jobs for source in (self._own, *self._queued))

    async def _next_own(self, _: float) -> bool:
        """Returns whether there is another job. Those that came from the pd sites' queues go back there."""
        await self._wait(lambda: not any(source.pulling() for source in (self._own, *self._queued)) or bool(self._own.jobs))
        for source in self._queued:
            while source.jobs:
                await source.jobs.popleft().give_back()
        if not self._own.jobs:
            await self._own.pull(0.0)
            await self._wait(lambda: not self._own.pulling())
        return bool(self._own.jobs)

    async def _wait(self, done: Callable[[], bool]) -> None:
        """Waits until `done`. The server ends every pull in time, and `pulling` raises when it did not."""
        while not done():
            self._changed.clear()
            try:
                async with asyncio.timeout(_RETRY_WAIT_S):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _restore(self) -> None:
        """Makes streams and consumers again, for a server that lost its store."""
        if self._bus.connected:
            try:
                await self._ensure()
            except BusError as error:
                _log.warning("jobs_unreachable", site=self._site, reason=str(error))

    async def _say_alive(self, asked: Msg) -> None:
        await self._bus.publish_raw(asked.reply, b"")

    async def _ensure(self) -> None:
        await ensure_job_streams(self._bus, self._site, self._serves)
        await self._own.ensure(OWN_CONSUMER_INACTIVE_S, MAX_DELIVERIES, MAX_JOBS)
        for source in self._queued:
            await source.ensure(None, MAX_QUEUED_DELIVERIES, MAX_JOBS)

    async def _give_up(self, stream: str, advisory: Msg) -> None:
        """Removes a job that the queue will not deliver again, and tells its decode worker. Raises BadMessageError, BusError."""
        found = decode_json(advisory.data, _MaxDeliveries)
        sequence = found.stream_seq
        stored = await call(
            self._bus, f"job {sequence} cannot be read", lambda jetstream: jetstream.get_msg(stream, sequence, direct=True)
        )
        try:
            await self._tell_given_up(stored, found.deliveries)
        except Exception as error:
            # A job that cannot be decoded has nobody to tell. It must leave the queue all the same.
            faults = FAULTS.undecodable if isinstance(error, BadMessageError) else FAULTS.failed
            faults["job"] += 1
            _log.error("job_given_up_untold", stream=stream, sequence=sequence, reason=str(error))
        await call(self._bus, f"job {sequence} cannot be removed", lambda jetstream: jetstream.delete_msg(stream, sequence))

    async def _tell_given_up(self, stored: RawStreamMsg, deliveries: int) -> None:
        """Raises BadMessageError, BusError."""
        job = decode(stored.data or b"", PrefillJob)
        _log.error("job_given_up", transfer=job.transfer.object_name, deliveries=deliveries)
        failed = PrefillFailed(
            transfer_id=job.transfer.transfer_id,
            attempt=job.transfer.attempt,
            nuid=job.transfer.nuid,
            worker=self._worker,
            code=FailureCode.MAX_DELIVERIES,
            message=f"the job was delivered {deliveries} times and never finished",
        )
        subject = subjects.progress_from(job.reply_to, self._site, self._worker)
        await self._bus.publish(subject, failed, parent=extract(stored.headers))


class _MaxDeliveries(msgspec.Struct):
    """The server's advisory for a job that was delivered too often."""

    stream_seq: Annotated[int, msgspec.Meta(ge=1)]
    deliveries: int = 0
