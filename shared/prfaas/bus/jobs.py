"""The prefill job queue: one JetStream work-queue stream per site, one durable consumer per model.

A job is delivered at least once. A worker that dies loses its job after ACK_WAIT_S, and another takes it with `deliveries` 2.
After MAX_DELIVERIES the job is removed and its decode worker hears PrefillFailed with code `max_deliveries`. A job that nobody
takes expires with its own timeout; the decode worker's deadline, which is the same, tells it.
"""

import asyncio
import json
import math
import time

from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from opentelemetry.context import Context
from opentelemetry.trace import Span

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError, BusTimeoutError, NotConnectedError, StreamError
from prfaas.bus.jetstream import call, ensure_stream, publish_acknowledged
from prfaas.bus.trace_context import trace_headers
from prfaas.contracts import subjects
from prfaas.contracts.to_decode import PrefillFailed
from prfaas.contracts.to_prefill import PrefillJob
from prfaas.contracts.wire import BadMessageError, decode, encode
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.tracing import extract

_log = get_logger(__name__)
ACK_WAIT_S = 5.0
MAX_DELIVERIES = 3
MAX_JOBS = 1024
MAX_JOBS_BYTES = 256 << 20
_TRY_S = 2.0
_RETRY_WAIT_S = 0.2
_ACK_TIMEOUT_S = 2.0
_PULL_GRACE_S = 1.0


class JobQueue:
    """Puts jobs into the queues of sites, the own one and those joined to it."""

    def __init__(self, bus: ControlBus) -> None:
        self._bus = bus

    async def submit(self, site: str, job: PrefillJob, *, timeout_s: float, parent: Span | Context | None = None) -> None:
        """Returns when the site's stream has stored the job. Tries again until `timeout_s` is over; a job that was stored by an
        earlier try, whose acknowledgement was lost, is stored once.

        Raises NoRespondersError (no prefill worker was ever there, or the site is not joined), StreamError (the queue is full),
        BusTimeoutError (it may still be stored), NotConnectedError, MessageTooLargeError."""
        headers = {
            "Nats-Msg-Id": job.transfer.object_name,
            "Nats-TTL": f"{max(1, math.ceil(job.timeout_s))}s",
        } | (trace_headers(parent) or {})
        subject, payload = subjects.jobs(site, job.model), encode(job)
        deadline_s = time.monotonic() + timeout_s
        while True:
            left_s = deadline_s - time.monotonic()
            try:
                await publish_acknowledged(self._bus, subject, payload, max(0.0, min(_TRY_S, left_s)), headers)
                return
            except BusTimeoutError:
                if deadline_s - time.monotonic() <= 0:
                    raise BusTimeoutError(f"the job queue of site {site}", timeout_s) from None


class TakenJob:
    """A job that this process owns until `ack`, `nak` or `term`; meanwhile the queue is told that it is in progress."""

    def __init__(self, bus: ControlBus, message: Msg, job: PrefillJob, ack_wait_s: float) -> None:
        metadata = message.metadata
        self.job = job
        self.deliveries = metadata.num_delivered
        """1 for the first; more when a worker before lost it or gave it back."""
        self.age_s = max(0.0, time.time() - metadata.timestamp.timestamp())
        """Since the site's server stored it."""
        self.context = extract(message.headers)
        """The submitter's trace context."""
        self._bus = bus
        self._message = message
        self._heartbeat = asyncio.get_running_loop().create_task(self._keep(job.timeout_s - self.age_s, ack_wait_s / 5))

    async def ack(self) -> None:
        """The job is done with, whether it worked or not: it leaves the queue."""
        await self._settle(b"+ACK")

    async def nak(self, delay_s: float = 0.0) -> None:
        """Gives it back, for another delivery after `delay_s`."""
        await self._settle(b"-NAK " + json.dumps({"delay": int(delay_s * 1e9)}).encode())

    async def term(self, reason: str) -> None:
        """Removes it unfinished; the server logs the reason as an advisory."""
        await self._settle(b"+TERM " + reason.encode())

    async def _settle(self, word: bytes) -> None:
        self._heartbeat.cancel()
        try:
            await self._bus.request_raw(self._message.reply, word, _ACK_TIMEOUT_S)
        except BusError as error:  # the job will be delivered again; its attempt is over and whoever gets it will see that
            _log.warning("job_not_settled", transfer=self.job.transfer.object_name, word=word.decode(), reason=str(error))

    async def _keep(self, useful_s: float, interval_s: float) -> None:
        """Ends with the job's own time: a job that is held for longer is of no use to anyone."""
        until_s = time.monotonic() + useful_s
        while time.monotonic() < until_s:
            await asyncio.sleep(interval_s)
            try:
                await self._bus.publish_raw(self._message.reply, b"+WPI")
            except BusError as error:
                _log.warning("job_heartbeat_failed", transfer=self.job.transfer.object_name, reason=str(error))


class JobConsumer:
    """Takes the jobs of one model from the own site's queue; several processes share the queue."""

    def __init__(self, bus: ControlBus, site: str, model: str, ack_wait_s: float) -> None:
        self._bus = bus
        self._site = site
        self._stream = subjects.jobs_stream(site)
        self._subject = subjects.jobs(site, model)
        self._ack_wait_s = ack_wait_s
        self._inbox: str = bus.client.new_inbox()
        self._pulls = 0
        self._arrived: asyncio.Queue[Msg] = asyncio.Queue()  # bounded by the pulls, of one job each
        self._consumer = "prefill_" + self._subject.rpartition(".")[2]

    @classmethod
    async def open(cls, bus: ControlBus, site: str, model: str, ack_wait_s: float = ACK_WAIT_S) -> "JobConsumer":
        """Makes the stream and the consumer where they are missing. Raises StreamError, BusTimeoutError, NotConnectedError."""
        consumer = cls(bus, site, model, ack_wait_s)
        await consumer._ensure()
        await bus.subscribe_raw(f"{consumer._inbox}.*", consumer._arrived.put_nowait)
        advisory = f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{consumer._stream}.{consumer._consumer}"
        await bus.subscribe_raw(advisory, consumer._give_up, queue="jobs")
        return consumer

    async def take(self, deadline_s: float) -> TakenJob | None:
        """The oldest waiting job; None when none came within `deadline_s`, or the queue could not be reached (which is logged).

        Raises NotConnectedError when the connection is closed for good."""
        until_s = time.monotonic() + deadline_s
        while (left_s := until_s - time.monotonic()) > 0:
            if self._bus.closed.is_set():
                raise NotConnectedError(f"jobs of site {self._site} cannot be taken: the connection is closed")
            try:
                message = await self._next(left_s)
                if message is None:
                    return None
                try:
                    job = decode(message.data, PrefillJob)
                except BadMessageError as error:
                    _log.error("job_unreadable", stream=self._stream, reason=str(error))
                    await self._bus.request_raw(message.reply, b"+TERM unreadable", _ACK_TIMEOUT_S)
                    continue
                return TakenJob(self._bus, message, job, self._ack_wait_s)
            except (BusError, TimeoutError) as error:
                _log.warning("jobs_unreachable", stream=self._stream, reason=str(error) or "no answer to a pull")
                await asyncio.sleep(min(_RETRY_WAIT_S, max(0.0, until_s - time.monotonic())))
                await self._restore()
        return None

    async def _next(self, wait_s: float) -> Msg | None:
        """One pull. The server ends it before we stop waiting; a job that comes late all the same is for the next call."""
        if self._arrived.empty():
            self._pulls += 1
            pull = {"batch": 1, "expires": int(wait_s * 1e9)}
            subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
            await self._bus.publish_raw(subject, json.dumps(pull).encode(), reply=f"{self._inbox}.{self._pulls}")
        async with asyncio.timeout(wait_s + _PULL_GRACE_S):
            while True:
                message = await self._arrived.get()
                headers = message.headers or {}
                status = headers.get("Status")
                if status is None:
                    return message
                if message.subject != f"{self._inbox}.{self._pulls}":
                    continue  # the end of an earlier pull
                if status in ("404", "408"):
                    return None
                raise StreamError(f"{self._stream} gave no job: status {status} {headers.get('Description', '')}")

    async def _restore(self) -> None:
        """After a server lost its store: the owner makes stream and consumer again."""
        if self._bus.connected:
            try:
                await self._ensure()
            except BusError as error:
                _log.warning("jobs_unreachable", stream=self._stream, reason=str(error))

    async def _ensure(self) -> None:
        await ensure_stream(
            self._bus,
            StreamConfig(
                name=self._stream,
                subjects=[f"jobs.{self._site}.prefill.*"],
                retention=RetentionPolicy.WORK_QUEUE,
                storage=StorageType.FILE,
                max_msgs=MAX_JOBS,
                max_bytes=MAX_JOBS_BYTES,
                discard=DiscardPolicy.NEW,
                allow_msg_ttl=True,
                allow_direct=True,
                duplicate_window=120,
            ),
        )
        config = ConsumerConfig(
            durable_name=self._consumer,
            filter_subject=self._subject,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=self._ack_wait_s,
            max_deliver=MAX_DELIVERIES,
            max_ack_pending=MAX_JOBS,
        )
        await call(
            self._bus,
            f"the consumer {self._consumer} cannot be made",
            lambda jetstream: jetstream.add_consumer(self._stream, config),
        )

    async def _give_up(self, advisory: Msg) -> None:
        """The queue will not deliver this job again: whoever waits for it must not wait for its deadline."""
        sequence = int(json.loads(advisory.data)["stream_seq"])
        stored = await call(
            self._bus, f"job {sequence} cannot be read", lambda jetstream: jetstream.get_msg(self._stream, sequence, direct=True)
        )
        job = decode(stored.data or b"", PrefillJob)
        _log.error("job_given_up", transfer=job.transfer.object_name, deliveries=MAX_DELIVERIES)
        failed = PrefillFailed(
            transfer_id=job.transfer.transfer_id,
            attempt=job.transfer.attempt,
            worker=self._consumer,
            code="max_deliveries",
            message=f"{MAX_DELIVERIES} workers took the job and none finished it",
        )
        await self._bus.publish(job.reply_to, failed, parent=extract(stored.headers))
        await call(self._bus, f"job {sequence} cannot be removed", lambda jetstream: jetstream.delete_msg(self._stream, sequence))
