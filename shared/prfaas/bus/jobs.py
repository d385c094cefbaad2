"""The prefill job queue: in each site one JetStream work-queue stream per pd site that it serves, with three kinds of consumer.

A pd site can fill its own stream only, and workers take from the streams in turn.

Workers of a model share one for jobs in their turn and one for deferred jobs. Each worker has one of its own, for jobs whose
prompt's prefix it has cached.

Jobs of the own site are in memory: they need no disk, and a decode worker whose connection broke asks for its KV anew. Those of
other sites, whose decode workers do not see this server die, are on disk.

A job is delivered at least once. A worker that dies loses its job after ACK_WAIT_S, and another takes it with `deliveries` 2.
A job of a worker's own consumer is taken by no other, so the process that named the worker watches it. After MAX_DELIVERIES the
job is removed, and its decode worker hears PrefillFailed with code `max_deliveries`. A job that no worker takes expires with its
own timeout, which is the decode worker's deadline too. A job that does not decode is removed by the first worker that gets it.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Annotated

import msgspec
from nats.aio.msg import Msg
from nats.js.api import DiscardPolicy, RawStreamMsg, RetentionPolicy, StorageType, StreamConfig
from opentelemetry.context import Context
from opentelemetry.trace import Span

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError, BusTimeoutError, NoRespondersError, NotConnectedError, StreamError
from prfaas.bus.jetstream import call, ensure_stream, publish_acknowledged
from prfaas.bus.server_clock import ServerClock
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
"""Bytes of all streams of a site together; each has an equal part."""
MAX_JOB_AGE_S = 900.0
"""Longest stay of a job in the stream, also of one whose sender set no time of its own: more than any request may wait."""
OWN_CONSUMER_INACTIVE_S = 3600.0
"""Then the server forgets a worker that is gone for good. No living one is busy with one job for so long."""
_TRY_S = 2.0
_MADE_AGAIN_S = 3.0
"""Time for a worker of the own site to make the queue that a server was started again without."""
_RETRY_WAIT_S = 0.2
_ALIVE_EVERY_S = 0.5
_ALIVE_TIMEOUT_S = 2.0
ABSENT_S = 1.5
"""Time without a subscriber under a worker's name after which it is gone. One that lost its connection dials every 0.2 s."""
ABSENT_BEHIND_A_LINK_S = 2.5
"""The same for a worker of another site: while the link between is down it seems as absent, and the link may be back at once."""


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
        own = job.decode_site
        subject = shared(site, own, job.model) if worker is None else subjects.worker_jobs(site, own, worker)
        payload = encode(job)
        deadline_at, made_again_at = time.monotonic() + timeout_s, time.monotonic() + _MADE_AGAIN_S
        while True:
            left_s = deadline_at - time.monotonic()
            try:
                await publish_acknowledged(self._bus, subject, payload, max(0.0, min(_TRY_S, left_s)), headers)
                return
            except BusTimeoutError:
                if deadline_at - time.monotonic() <= 0:
                    raise BusTimeoutError(f"the job queue of site {site}", timeout_s) from None
            except NoRespondersError:
                if site != own or time.monotonic() >= min(deadline_at, made_again_at):
                    raise
                await asyncio.sleep(_RETRY_WAIT_S)

    async def is_there(self, site: str, worker: str) -> bool:
        """Asks whether the worker takes jobs of its own."""
        try:
            await self._bus.request_raw(subjects.worker_alive(site, worker), b"", _ALIVE_TIMEOUT_S)
        except BusError:
            return False
        return True

    async def until_lost(self) -> str:
        """Returns the reason when the own site's server may have lost the jobs that it had: the connection to it broke."""
        losses = self._bus.losses
        while True:
            await asyncio.sleep(_RETRY_WAIT_S)
            if self._bus.losses != losses and self._bus.connected:
                return "the site's NATS server was away, and the job with it"

    async def until_gone(self, site: str, worker: str, absent_s: float = ABSENT_S) -> str:
        """Returns the reason when the worker is gone: none has listened under its name for `absent_s`.

        One that listens and does not answer may be busy, or stopped for a while: it is given up after ACK_WAIT_S."""
        heard_at = time.monotonic()
        absent_since: float | None = None
        while True:
            await asyncio.sleep(_ALIVE_EVERY_S)
            asked_at = time.monotonic()
            try:
                await self._bus.request_raw(subjects.worker_alive(site, worker), b"", _ALIVE_TIMEOUT_S)
                heard_at, absent_since = time.monotonic(), None
            except NoRespondersError:
                absent_since = asked_at if absent_since is None else absent_since
                if time.monotonic() - absent_since >= absent_s:
                    return f"prefill worker {worker!r} of site {site} has no connection any more"
            except BusError:
                absent_since = None
            if (silent_s := time.monotonic() - heard_at) >= ACK_WAIT_S:
                return f"prefill worker {worker!r} of site {site} has not answered for {silent_s:.1f} s"


class JobConsumer:
    """Takes jobs for one worker from its site's queue: first those that name it, then those that its model's workers share, last
    the deferred ones."""

    def __init__(self, bus: ControlBus, site: str, model: str, worker: str, serves: Sequence[str], ack_wait_s: float) -> None:
        self._bus = bus
        self._site = site
        self._worker = worker
        self._ack_wait_s = ack_wait_s
        self._changed = asyncio.Event()
        self.clock = ServerClock()
        """Clock of the site's server, which stamps the jobs."""
        self.problem: str | None = None
        """Reason why no job can be taken, for readiness; None while the queue answers."""
        self._taken = 0
        self._losses = bus.losses
        """Breaks of the connection after which queues and pulls were made again."""
        self._streams = {decode_site: subjects.jobs_stream(site, decode_site) for decode_site in serves}
        named = [self._source(home, f"worker_{worker}", subjects.worker_jobs(site, home, worker)) for home in serves]
        shared = [self._source(home, _consumer("prefill", model), subjects.jobs(site, home, model)) for home in serves]
        late = [self._source(home, _consumer("deferred", model), subjects.deferred_jobs(site, home, model)) for home in serves]
        self._kinds = (named, shared, late)
        self._own, self._shared = named, shared
        self._sources = [source for kind in self._kinds for source in kind]

    @classmethod
    async def open(
        cls, bus: ControlBus, site: str, model: str, worker: str, *, serves: Sequence[str], ack_wait_s: float = ACK_WAIT_S
    ) -> "JobConsumer":
        """Makes the streams and the consumers where they are missing. `serves`: pd sites whose jobs are taken.

        Raises StreamError, BusTimeoutError, NotConnectedError."""
        consumer = cls(bus, site, model, worker, serves, ack_wait_s)
        await consumer._ensure()
        await consumer.clock.keep(bus, consumer._own[0].stream)
        for source in consumer._sources:
            await source.open()
            advisory = f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{source.stream}.{source.consumer}"
            await bus.subscribe_raw(advisory, partial(consumer._give_up, source.stream), queue="jobs")
        await bus.subscribe_raw(subjects.worker_alive(site, worker), consumer._say_alive)
        return consumer

    def _source(self, decode_site: str, consumer: str, subject: str) -> JobSource:
        return JobSource(self._bus, self._site, decode_site, consumer, subject, self._ack_wait_s, self.clock, self._changed.set)

    async def take(self, timeout_s: float) -> TakenJob | None:
        """Returns the oldest waiting job; None when none came within `timeout_s`, or the queue could not be reached (which is
        logged).

        Raises NotConnectedError when the connection is closed for good."""
        return await self._take(time.monotonic() + timeout_s, self._next)

    async def waiting(self) -> int:
        """Counts the shared jobs that no worker has taken, without the deferred ones; 0 while the queues cannot be asked."""
        waiting = 0
        for source in self._shared:
            with contextlib.suppress(BusError):  # `take` says what is wrong
                waiting += await source.pending()
        return waiting

    async def take_last(self, timeout_s: float) -> TakenJob | None:
        """Returns the next job that is this worker's already: named for it, or on the way to it. Asks for no others."""
        return await self._take(time.monotonic() + timeout_s, self._next_own)

    async def _take(self, until_at: float, look: Callable[[float], Awaitable[bool]]) -> TakenJob | None:
        if self._bus.connected:
            await self.clock.keep(self._bus, self._own[0].stream)
        while True:
            for source in self._in_turn():
                if source.jobs:
                    self._taken += 1
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
                self.problem = f"the job queue of site {self._site} cannot be used: {str(error) or 'no answer to a pull'}"
                _log.warning("jobs_unreachable", site=self._site, reason=str(error) or "no answer to a pull")
                await asyncio.sleep(min(_RETRY_WAIT_S, max(0.0, until_at - time.monotonic())))
                await self._restore()

    async def _next(self, wait_s: float) -> bool:
        """Returns when a job may have arrived. A queue is asked only when those before it are empty, since a job that it gives is
        taken from the other workers. An idle worker waits for all of them: then several jobs may come at once, and wait here."""
        for source in self._in_turn():
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

    def _in_turn(self) -> list[JobSource]:
        """Jobs for this worker first, deferred ones last; within a kind each pd site is the first one in its turn."""
        first = self._taken % len(self._streams)
        return [source for kind in self._kinds for source in kind[first:] + kind[:first]]

    def _arrived(self) -> bool:
        return any(source.jobs for source in self._sources)

    async def _next_own(self, _: float) -> bool:
        """Returns whether there is another job."""
        await self._wait(lambda: self._arrived() or not any(source.pulling() for source in self._sources))
        if not self._arrived():
            for source in self._own:
                await source.pull(0.0)
            await self._wait(lambda: not any(source.pulling() for source in self._own))
        return self._arrived()

    async def _wait(self, done: Callable[[], bool]) -> None:
        """Waits until `done`. The server ends every pull in time, and `pulling` raises when it did not."""
        while not done():
            if self._bus.losses != self._losses:
                # Pulls that were outstanding are answered no more, and the queue may be gone.
                self._losses = self._bus.losses
                for source in self._sources:
                    source.forget_pull()
                raise StreamError("the connection broke")
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
                _log.warning("jobs_unreachable", site=self._site, reason=str(error))

    async def _say_alive(self, asked: Msg) -> None:
        await self._bus.publish_raw(asked.reply, b"")

    async def _ensure(self) -> None:
        for decode_site, stream in self._streams.items():
            await ensure_stream(
                self._bus,
                StreamConfig(
                    name=stream,
                    subjects=[f"jobs.{self._site}.{decode_site}.{kind}.*" for kind in ("prefill", "deferred", "worker")],
                    retention=RetentionPolicy.WORK_QUEUE,
                    storage=StorageType.MEMORY if decode_site == self._site else StorageType.FILE,
                    max_msgs=MAX_JOBS,
                    max_bytes=MAX_JOBS_BYTES // len(self._streams),
                    max_age=MAX_JOB_AGE_S,
                    discard=DiscardPolicy.NEW,
                    allow_msg_ttl=True,
                    allow_direct=True,
                    duplicate_window=120,
                ),
            )
        for source in self._sources:
            await source.ensure(OWN_CONSUMER_INACTIVE_S if source in self._own else None, MAX_DELIVERIES, MAX_JOBS)

    async def _give_up(self, stream: str, advisory: Msg) -> None:
        """Removes a job that the queue will not deliver again, and tells its decode worker. Raises BadMessageError, BusError."""
        sequence = decode_json(advisory.data, _MaxDeliveries).stream_seq
        stored = await call(
            self._bus, f"job {sequence} cannot be read", lambda jetstream: jetstream.get_msg(stream, sequence, direct=True)
        )
        try:
            await self._tell_given_up(stored)
        except Exception as error:
            # A job that cannot be decoded has nobody to tell. It must leave the queue all the same.
            faults = FAULTS.undecodable if isinstance(error, BadMessageError) else FAULTS.failed
            faults["job"] += 1
            _log.error("job_given_up_untold", stream=stream, sequence=sequence, reason=str(error))
        await call(self._bus, f"job {sequence} cannot be removed", lambda jetstream: jetstream.delete_msg(stream, sequence))

    async def _tell_given_up(self, stored: RawStreamMsg) -> None:
        """Raises BadMessageError, BusError."""
        job = decode(stored.data or b"", PrefillJob)
        _log.error("job_given_up", transfer=job.transfer.object_name, deliveries=MAX_DELIVERIES)
        failed = PrefillFailed(
            transfer_id=job.transfer.transfer_id,
            attempt=job.transfer.attempt,
            nuid=job.transfer.nuid,
            worker=self._worker,
            code=FailureCode.MAX_DELIVERIES,
            message=f"{MAX_DELIVERIES} workers took the job and none finished it",
        )
        subject = subjects.progress_from(job.reply_to, self._site, self._worker)
        await self._bus.publish(subject, failed, parent=extract(stored.headers))


class _MaxDeliveries(msgspec.Struct):
    """The server's advisory for a job that was delivered too often."""

    stream_seq: Annotated[int, msgspec.Meta(ge=1)]


def _consumer(kind: str, model: str) -> str:
    return f"{kind}_{model.replace('.', '_')}"
