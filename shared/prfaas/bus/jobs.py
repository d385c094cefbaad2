"""The prefill job queue: one JetStream work-queue stream per site, with three kinds of durable consumer.

Workers of a model share one for jobs in their turn and one for deferred jobs. Each worker has one of its own, for jobs whose
prompt's prefix it has cached.

A job is delivered at least once. A worker that dies loses its job after ACK_WAIT_S, and another takes it with `deliveries` 2.
A job of a worker's own consumer is taken by no other, so the process that named the worker watches it. After MAX_DELIVERIES the
job is removed, and its decode worker hears PrefillFailed with code `max_deliveries`. A job that no worker takes expires with its
own timeout, which is the decode worker's deadline too. A job that does not decode is removed by the first worker that gets it.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, RawStreamMsg, RetentionPolicy, StorageType, StreamConfig
from opentelemetry.context import Context
from opentelemetry.trace import Span

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError, BusTimeoutError, NotConnectedError
from prfaas.bus.jetstream import call, ensure_stream, publish_acknowledged
from prfaas.bus.taken_jobs import JobSource, TakenJob
from prfaas.bus.trace_context import trace_headers
from prfaas.contracts import subjects
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.to_decode import PrefillFailed
from prfaas.contracts.to_prefill import PrefillJob
from prfaas.contracts.wire import BadMessageError, decode, decode_json, encode
from prfaas.telemetry.faults import FAULTS
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.tracing import extract

_log = get_logger(__name__)
ACK_WAIT_S = 5.0
MAX_DELIVERIES = 3
MAX_JOBS = 1024
MAX_JOBS_BYTES = 256 << 20
MAX_JOB_AGE_S = 900.0
"""Longest stay of a job in the stream, also of one whose sender set no time of its own: more than any request may wait."""
OWN_CONSUMER_INACTIVE_S = 3600.0
"""Then the server forgets a worker that is gone for good. No living one is busy with one job for so long."""
_TRY_S = 2.0
_RETRY_WAIT_S = 0.2
_ALIVE_EVERY_S = 1.0
_ALIVE_TIMEOUT_S = 2.0


class JobQueue:
    """Puts jobs into the queues of sites, the own one and those joined to it."""

    def __init__(self, bus: ControlBus) -> None:
        self._bus = bus

    async def submit(
        self,
        site: str,
        job: PrefillJob,
        *,
        timeout_s: float,
        worker: str | None = None,
        deferred: bool = False,
        parent: Span | Context | None = None,
    ) -> None:
        """Returns when the site's stream has stored the job: for `worker`, or for the first of the site that is free, or
        (`deferred`) for the first that has no other job. Tries again until `timeout_s` is over, and stores the job once.

        Raises NoRespondersError (no prefill worker was ever there, or the site is not joined), StreamError (the queue is full),
        BusTimeoutError (it may still be stored), NotConnectedError, MessageTooLargeError."""
        headers = {
            "Nats-Msg-Id": job.transfer.object_name,
            "Nats-TTL": f"{max(1, math.ceil(job.timeout_s))}s",
        } | (trace_headers(parent) or {})
        shared = subjects.deferred_jobs if deferred else subjects.jobs
        subject = shared(site, job.model) if worker is None else subjects.worker_jobs(site, worker)
        payload = encode(job)
        deadline_at = time.monotonic() + timeout_s
        while True:
            left_s = deadline_at - time.monotonic()
            try:
                await publish_acknowledged(self._bus, subject, payload, max(0.0, min(_TRY_S, left_s)), headers)
                return
            except BusTimeoutError:
                if deadline_at - time.monotonic() <= 0:
                    raise BusTimeoutError(f"the job queue of site {site}", timeout_s) from None

    async def is_there(self, site: str, worker: str) -> bool:
        """Asks whether the worker takes jobs of its own."""
        try:
            await self._bus.request_raw(subjects.worker_alive(site, worker), b"", _ALIVE_TIMEOUT_S)
        except BusError:
            return False
        return True

    async def until_gone(self, site: str, worker: str) -> str:
        """Returns the reason when the worker has not answered for ACK_WAIT_S."""
        heard_at = time.monotonic()
        while True:
            await asyncio.sleep(_ALIVE_EVERY_S)
            if await self.is_there(site, worker):
                heard_at = time.monotonic()
            elif (silent_s := time.monotonic() - heard_at) >= ACK_WAIT_S:
                return f"prefill worker {worker!r} of site {site} has not answered for {silent_s:.1f} s"


class JobConsumer:
    """Takes jobs for one worker from its site's queue: first those that name it, then those that its model's workers share, last
    the deferred ones."""

    def __init__(self, bus: ControlBus, site: str, model: str, worker: str, ack_wait_s: float) -> None:
        self._bus = bus
        self._site = site
        self._worker = worker
        self._stream = subjects.jobs_stream(site)
        self._ack_wait_s = ack_wait_s
        self._changed = asyncio.Event()
        self.problem: str | None = None
        """Why no job can be taken, for readiness; None while the queue answers."""
        self._filters = {
            f"worker_{worker}": subjects.worker_jobs(site, worker),
            "prefill_" + subjects.jobs(site, model).rpartition(".")[2]: subjects.jobs(site, model),
            "deferred_" + subjects.deferred_jobs(site, model).rpartition(".")[2]: subjects.deferred_jobs(site, model),
        }
        self._sources = [JobSource(bus, self._stream, name, ack_wait_s, self._changed.set) for name in self._filters]
        self._own, self._shared, _ = self._sources

    @classmethod
    async def open(cls, bus: ControlBus, site: str, model: str, worker: str, ack_wait_s: float = ACK_WAIT_S) -> "JobConsumer":
        """Makes the stream and the consumers where they are missing. Raises StreamError, BusTimeoutError, NotConnectedError."""
        consumer = cls(bus, site, model, worker, ack_wait_s)
        await consumer._ensure()
        for source in consumer._sources:
            await source.open()
            advisory = f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{consumer._stream}.{source.consumer}"
            await bus.subscribe_raw(advisory, consumer._give_up, queue="jobs")
        await bus.subscribe_raw(subjects.worker_alive(site, worker), consumer._say_alive)
        return consumer

    async def take(self, deadline_s: float) -> TakenJob | None:
        """Returns the oldest waiting job; None when none came within `deadline_s`, or the queue could not be reached (which is
        logged).

        Raises NotConnectedError when the connection is closed for good."""
        return await self._take(time.monotonic() + deadline_s, self._next)

    async def waiting(self) -> int:
        """Counts the shared jobs that no worker has taken, without the deferred ones; 0 while the queue cannot be asked."""
        try:
            info = await call(
                self._bus,
                f"the consumer {self._shared.consumer} cannot be looked at",
                lambda jetstream: jetstream.consumer_info(self._stream, self._shared.consumer),
            )
        except BusError:
            return 0  # `take` says what is wrong
        return info.num_pending or 0

    async def take_last(self, deadline_s: float) -> TakenJob | None:
        """Returns the next job that is this worker's already: named for it, or on the way to it. Asks for no others."""
        return await self._take(time.monotonic() + deadline_s, self._next_own)

    async def _take(self, until_at: float, look: Callable[[float], Awaitable[bool]]) -> TakenJob | None:
        while True:
            for source in self._sources:
                if source.jobs:
                    return source.jobs.popleft()
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
                self.problem = f"the job queue {self._stream} cannot be used: {str(error) or 'no answer to a pull'}"
                _log.warning("jobs_unreachable", stream=self._stream, reason=str(error) or "no answer to a pull")
                await asyncio.sleep(min(_RETRY_WAIT_S, max(0.0, until_at - time.monotonic())))
                await self._restore()

    async def _next(self, wait_s: float) -> bool:
        """Returns when a job may have arrived. A queue is asked only when those before it are empty, since a job that it gives is
        taken from the other workers. An idle worker waits for all of them: then several jobs may come at once, and wait here."""
        for source in self._sources:
            if not source.pulling():
                await source.pull(0.0)
                await self._wait(lambda source=source: not source.pulling())  # type: ignore[misc]
                if self._arrived():
                    return True
        for source in self._sources:
            if not source.pulling():
                await source.pull(wait_s)
        await self._wait(lambda: self._arrived() or not all(source.pulling() for source in self._sources))
        return True

    def _arrived(self) -> bool:
        return any(source.jobs for source in self._sources)

    async def _next_own(self, _: float) -> bool:
        """Returns whether there is another job."""
        await self._wait(lambda: self._arrived() or not any(source.pulling() for source in self._sources))
        if not self._arrived():
            await self._own.pull(0.0)
            await self._wait(lambda: not self._own.pulling())
        return self._arrived()

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
        """Makes stream and consumers again, for a server that lost its store."""
        if self._bus.connected:
            try:
                await self._ensure()
            except BusError as error:
                _log.warning("jobs_unreachable", stream=self._stream, reason=str(error))

    async def _say_alive(self, asked: Msg) -> None:
        await self._bus.publish_raw(asked.reply, b"")

    async def _ensure(self) -> None:
        await ensure_stream(
            self._bus,
            StreamConfig(
                name=self._stream,
                subjects=[f"jobs.{self._site}.{kind}.*" for kind in ("prefill", "deferred", "worker")],
                retention=RetentionPolicy.WORK_QUEUE,
                storage=StorageType.FILE,
                max_msgs=MAX_JOBS,
                max_bytes=MAX_JOBS_BYTES,
                max_age=MAX_JOB_AGE_S,
                discard=DiscardPolicy.NEW,
                allow_msg_ttl=True,
                allow_direct=True,
                duplicate_window=120,
            ),
        )
        for name, subject in self._filters.items():
            config = ConsumerConfig(
                durable_name=name,
                filter_subject=subject,
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=self._ack_wait_s,
                max_deliver=MAX_DELIVERIES,
                max_ack_pending=MAX_JOBS,
                inactive_threshold=OWN_CONSUMER_INACTIVE_S if name == self._own.consumer else None,
            )
            await call(
                self._bus,
                f"the consumer {name} cannot be made",
                lambda jetstream, config=config: jetstream.add_consumer(self._stream, config),  # type: ignore[misc]
            )

    async def _give_up(self, advisory: Msg) -> None:
        """Removes a job that the queue will not deliver again, and tells its decode worker. Raises BadMessageError, BusError."""
        sequence = decode_json(advisory.data, _MaxDeliveries).stream_seq
        stored = await call(
            self._bus, f"job {sequence} cannot be read", lambda jetstream: jetstream.get_msg(self._stream, sequence, direct=True)
        )
        try:
            await self._tell_given_up(stored)
        except Exception as error:
            # A job that cannot be decoded has nobody to tell. It must leave the queue all the same.
            faults = FAULTS.undecodable if isinstance(error, BadMessageError) else FAULTS.failed
            faults["job"] += 1
            _log.error("job_given_up_untold", stream=self._stream, sequence=sequence, reason=str(error))
        await call(self._bus, f"job {sequence} cannot be removed", lambda jetstream: jetstream.delete_msg(self._stream, sequence))

    async def _tell_given_up(self, stored: RawStreamMsg) -> None:
        """Raises BadMessageError, BusError."""
        job = decode(stored.data or b"", PrefillJob)
        _log.error("job_given_up", transfer=job.transfer.object_name, deliveries=MAX_DELIVERIES)
        failed = PrefillFailed(
            transfer_id=job.transfer.transfer_id,
            attempt=job.transfer.attempt,
            worker=self._worker,
            code=FailureCode.MAX_DELIVERIES,
            message=f"{MAX_DELIVERIES} workers took the job and none finished it",
        )
        await self._bus.publish(job.reply_to, failed, parent=extract(stored.headers))


class _MaxDeliveries(msgspec.Struct):
    """The server's advisory for a job that was delivered too often."""

    stream_seq: Annotated[int, msgspec.Meta(ge=1)]
