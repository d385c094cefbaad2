"""A job that a process has taken from a queue, and the consumers from which it takes jobs."""

import asyncio
import json
import re
import time
from collections import deque
from collections.abc import Callable

from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError, StreamError
from prfaas.bus.jetstream import call
from prfaas.bus.server_clock import ServerClock
from prfaas.bus.subscription import Subscription
from prfaas.contracts import subjects
from prfaas.contracts.to_prefill import PrefillJob
from prfaas.contracts.wire import BadMessageError, decode
from prfaas.telemetry.faults import FAULTS
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.tracing import extract

_log = get_logger(__name__)
ACK_TIMEOUT_S = 2.0
_PULL_GRACE_S = 1.0
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")


class TakenJob:
    """A job that this process owns until `ack` or `give_back`; meanwhile the queue is told that it is in progress."""

    def __init__(self, bus: ControlBus, message: Msg, job: PrefillJob, ack_wait_s: float, clock: ServerClock) -> None:
        metadata = message.metadata
        self.job = job
        self.held = True
        """False once it was acknowledged, given back or forgotten."""
        self.deliveries = metadata.num_delivered
        """Number of this delivery: 1 for the first, more when a worker before lost the job or gave it back."""
        self._stored_unix_s = metadata.timestamp.timestamp()
        clock.handle_stamp(self._stored_unix_s)
        self._clock = clock
        self.context = extract(message.headers)
        """The submitter's trace context."""
        self._bus = bus
        self._message = message
        self._heartbeat = asyncio.get_running_loop().create_task(self._keep(job.timeout_s - self.age_s, ack_wait_s / 5))

    @property
    def age_s(self) -> float:
        """Time since the site's server first stored the job, by that server's clock."""
        return self.job.waited_s + max(0.0, self._clock.unix_s - self._stored_unix_s)

    async def ack(self) -> None:
        """Removes the job from the queue, whether it worked or not.

        Waits for no answer: where the word is lost, the job is delivered again, and refused then, as its attempt is over."""
        self.forget()
        try:
            await self._bus.publish_raw(self._message.reply, b"+ACK")
        except BusError as error:
            _log.warning("job_not_acknowledged", transfer=self.job.transfer.object_name, reason=str(error))

    def forget(self) -> None:
        """Keeps the job in progress no longer; it came again, as another TakenJob."""
        self.held = False
        self._heartbeat.cancel()

    async def give_back(self) -> None:
        """Lets the queue give the job to another process at once."""
        self.forget()
        try:
            await self._bus.publish_raw(self._message.reply, b"-NAK")
        except BusError as error:  # its time in this process runs out by itself
            _log.warning("job_not_given_back", transfer=self.job.transfer.object_name, reason=str(error))

    async def _keep(self, useful_s: float, interval_s: float) -> None:
        """Tells the queue that the job is in progress, until the job's own time is over."""
        until_at = time.monotonic() + useful_s
        while time.monotonic() < until_at:
            await asyncio.sleep(interval_s)
            try:
                await self._bus.publish_raw(self._message.reply, b"+WPI")
            except BusError as error:
                _log.warning("job_heartbeat_failed", transfer=self.job.transfer.object_name, reason=str(error))


def check_origin(job: PrefillJob, site: str, decode_site: str) -> None:
    """Raises BadMessageError unless KV and progress of a job in the queue of `decode_site` go to workers of that site.

    Names that become subjects are checked too: a line end in one would be a command in the lane's protocol."""
    bucket = subjects.kv_bucket(decode_site, site)
    reply = job.reply_to.split(".")
    if job.decode_site != decode_site:
        raise BadMessageError(f"a job of site {decode_site} says that it is one of {job.decode_site[:100]!r}")
    if job.transfer.bucket != bucket:
        raise BadMessageError(f"a job of site {decode_site} wants its KV in {job.transfer.bucket[:100]!r}, expected {bucket}")
    if not _TOKEN.fullmatch(job.transfer.nuid):
        raise BadMessageError(f"a job of site {decode_site} names its object {job.transfer.nuid[:100]!r}, which is no nuid")
    if len(reply) != 5 or not _TOKEN.fullmatch(reply[3]) or job.reply_to != subjects.prefill_progress(decode_site, reply[3]):
        raise BadMessageError(f"a job of site {decode_site} wants its progress on {job.reply_to[:100]!r}, no worker of that site")


class JobSource:
    """One consumer of a stream, which is asked for one job at a time. A job that arrives is in progress at once, also while the
    process is busy with another one."""

    def __init__(
        self,
        bus: ControlBus,
        site: str,
        decode_site: str | None,
        consumer: str,
        subject: str,
        ack_wait_s: float,
        clock: ServerClock,
        changed: Callable[[], None],
    ) -> None:
        """`decode_site`: the one whose queued jobs these are, since it alone can have sent them; None: jobs that are dispatched
        to a worker, of any pd site. `changed` is called when a job has come or a pull has ended."""
        self.stream = subjects.dispatched_stream(site) if decode_site is None else subjects.jobs_stream(site, decode_site)
        self.consumer = consumer
        self._site = site
        self._decode_site = decode_site
        self._subject = subject
        self.jobs: deque[TakenJob] = deque()
        """Arrived and not begun; bounded by the pulls, of one job each."""
        self._bus = bus
        self._ack_wait_s = ack_wait_s
        self._clock = clock
        self._changed = changed
        self._inbox: str = bus.client.new_inbox()
        self._pulls = 0
        self._ends_at = 0.0
        """Moment by which the server has ended the outstanding pull for certain; 0 without one."""
        self._refusal = ""
        self._undecodable = 0
        self._dispatched: list[TakenJob] = []
        """Jobs that were dispatched to this worker and that it may hold still."""
        self._subscription: Subscription | None = None

    async def open(self) -> None:
        self._subscription = await self._bus.subscribe_raw(f"{self._inbox}.*", self._arrived)

    async def close(self) -> None:
        """Takes no job any more; the server ends the outstanding pull."""
        if self._subscription is not None:
            await self._subscription.drain()

    async def ensure(self, inactive_threshold_s: float | None, max_deliver: int, max_ack_pending: int) -> None:
        """Makes the consumer, or finds it there. Raises StreamError, BusTimeoutError, NotConnectedError."""
        config = ConsumerConfig(
            name=self.consumer,  # the request for a named consumer has its filter in its subject, where a permission can tell it
            durable_name=self.consumer,
            filter_subject=self._subject,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=self._ack_wait_s,
            max_deliver=max_deliver,
            max_ack_pending=max_ack_pending,
            inactive_threshold=inactive_threshold_s,
        )
        await call(
            self._bus,
            f"the consumer {self.consumer} of {self.stream} cannot be made",
            lambda jetstream: jetstream.add_consumer(self.stream, config),
        )

    async def pending(self) -> int:
        """Number of jobs that are not acknowledged, delivered or not. Raises StreamError, BusTimeoutError, NotConnectedError."""
        info = await call(
            self._bus,
            f"the consumer {self.consumer} of {self.stream} cannot be looked at",
            lambda jetstream: jetstream.consumer_info(self.stream, self.consumer),
        )
        return (info.num_pending or 0) + (info.num_ack_pending or 0)

    def pulling(self) -> bool:
        """Returns whether a pull is outstanding. Raises StreamError when the server refused the last one, TimeoutError when it
        neither answered nor ended it."""
        if self._refusal:
            refusal, self._refusal = self._refusal, ""
            raise StreamError(f"{self.stream} gave no job: {refusal}")
        if self._ends_at and time.monotonic() > self._ends_at:
            self._ends_at = 0.0
            raise TimeoutError
        return bool(self._ends_at)

    async def pull(self, wait_s: float) -> None:
        """Asks for the oldest job, or for the next one that comes within `wait_s`, after which the server ends the pull."""
        self._pulls += 1
        self._ends_at = time.monotonic() + wait_s + _PULL_GRACE_S
        pull = {"batch": 1} | ({"expires": int(wait_s * 1e9)} if wait_s else {"no_wait": True})
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{self.consumer}"
        await self._bus.publish_raw(subject, json.dumps(pull).encode(), reply=f"{self._inbox}.{self._pulls}")

    async def _arrived(self, message: Msg) -> None:
        headers = message.headers or {}
        status = headers.get("Status")
        if status is not None and message.subject != f"{self._inbox}.{self._pulls}":
            return  # the end of an earlier pull
        self._ends_at = 0.0
        if status is None:
            await self._take(message)
        elif status not in ("404", "408"):
            self._refusal = f"status {status} {headers.get('Description', '')}"
        self._changed()

    async def _take(self, message: Msg) -> None:
        try:
            job = decode(message.data, PrefillJob)
            check_origin(job, self._site, self._decode_site or job.decode_site)
            taken = TakenJob(self._bus, message, job, self._ack_wait_s, self._clock)
            if self._decode_site is None and self._is_held(taken):
                # The server has not heard of it for a while, and hands it over as if to another process. Its heartbeat goes on.
                taken.forget()
                return
        except Exception as error:
            # Also what is no delivery of the stream, or has no headers that can be read. A job that stayed would come again and
            # again, and hold its place in the queue for good.
            FAULTS.undecodable["job"] += 1
            self._undecodable += 1
            if self._undecodable & (self._undecodable - 1) == 0:  # 1, 2, 4, 8...: a queue full of them must not flood the log
                _log.error(
                    "job_undecodable", stream=self.stream, consumer=self.consumer, jobs=self._undecodable, reason=str(error)
                )
            try:
                await self._bus.request_raw(message.reply, b"+TERM undecodable", ACK_TIMEOUT_S)
            except BusError as unsettled:  # it comes again, and goes then
                _log.warning("job_not_settled", stream=self.stream, word="+TERM", reason=str(unsettled))
        else:
            self.jobs.append(taken)

    def _is_held(self, taken: TakenJob) -> bool:
        """Tells whether the process holds the same job from an earlier delivery, and notes it where not."""
        self._dispatched = [each for each in self._dispatched if each.held]
        name = taken.job.decode_site, taken.job.transfer.object_name  # another pd site may use the same name
        if any(name == (each.job.decode_site, each.job.transfer.object_name) for each in self._dispatched):
            return True
        self._dispatched.append(taken)
        return False
