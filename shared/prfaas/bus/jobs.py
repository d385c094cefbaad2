"""Jobs on their way to prefill workers: put into a site's queue, and from there to the one worker that runs each.

A site has one JetStream work-queue stream for each pd site that it serves, and a pd site can fill its own one only. The site's
dispatcher takes jobs from these streams and holds them, and a job goes to a worker's own subject of another stream when it is
that worker's turn. Only then does it leave the queue, and only from there is it run.

A job is dispatched once: the stream of dispatched jobs knows its name for longer than the job can live. So a dispatcher may die
at any moment, and the process that takes the job next tries again. While no dispatcher answers, workers take jobs from the queue
themselves, first come, first served, and dispatch them to themselves.

A worker that dies loses its jobs. The decode worker watches it from the moment of the dispatch on. A process of the same name
that comes back gets the job with `deliveries` 2. After MAX_DELIVERIES it is removed, and its decode worker hears PrefillFailed
with code `max_deliveries`. A job that no worker takes expires with its own timeout, which is the decode worker's deadline too.
"""

import asyncio
import math
import re
import time

from msgspec.structs import replace
from opentelemetry.context import Context
from opentelemetry.trace import Span

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError, BusTimeoutError, NoRespondersError, StreamError
from prfaas.bus.jetstream import publish_acknowledged, store
from prfaas.bus.taken_jobs import TakenJob
from prfaas.bus.trace_context import Headers, trace_headers
from prfaas.contracts import subjects
from prfaas.contracts.to_decode import PrefillDispatched
from prfaas.contracts.to_prefill import PrefillJob
from prfaas.contracts.wire import encode

_TRY_S = 2.0
_RETRY_WAIT_S = 0.2
_ALIVE_TIMEOUT_S = 0.75
_NEVER_STORED = 1 << 53
_LAST_SEQUENCE = re.compile(r"wrong last sequence: (\d+)")


class JobQueue:
    """Puts jobs into the queues of sites, the own one and those joined to it."""

    def __init__(self, bus: ControlBus) -> None:
        self._bus = bus

    async def submit(self, site: str, job: PrefillJob, *, timeout_s: float, parent: Span | Context | None = None) -> int:
        """Returns the job's sequence number when the site's stream has stored it. Tries again until `timeout_s` is over.

        The stream stores it once. A server that was started again in between does not know the first one, and two workers may
        compute it: its object takes frames of one of them only.

        Raises NoRespondersError (no prefill worker was ever there, or the site is not joined), StreamError (the queue is full),
        BusTimeoutError (it may still be stored), NotConnectedError, MessageTooLargeError."""
        headers = _headers(job, job.timeout_s, parent)
        subject = subjects.jobs(site, job.decode_site, job.model)
        payload = encode(job)
        deadline_at = time.monotonic() + timeout_s
        while True:
            left_s = deadline_at - time.monotonic()
            try:
                return await store(self._bus, subject, payload, max(0.0, min(_TRY_S, left_s)), headers)
            except BusTimeoutError:
                if deadline_at - time.monotonic() <= 0:
                    raise BusTimeoutError(f"the job queue of site {site}", timeout_s) from None
            except NoRespondersError:
                # The own site's server may be back without its store: a prefill worker then makes the queue again.
                if site != job.decode_site or deadline_at - time.monotonic() <= _RETRY_WAIT_S:
                    raise
                await asyncio.sleep(_RETRY_WAIT_S)

    async def is_there(self, site: str, worker: str) -> bool:
        """Asks whether the worker takes jobs."""
        try:
            await self._bus.request_raw(subjects.worker_alive(site, worker), b"", _ALIVE_TIMEOUT_S)
        except BusError:
            return False
        return True

    async def last_stored(self, site: str, decode_site: str, model: str, timeout_s: float) -> int:
        """Returns the sequence number of the last job that the queue has stored: one less than some job's when it has lost that.

        Asks with a job that may follow on one that was never stored, and is refused. Raises StreamError, BusTimeoutError,
        NoRespondersError, NotConnectedError."""
        subject = subjects.jobs(site, decode_site, model)
        try:
            await store(self._bus, subject, b"", timeout_s, {"Nats-Expected-Last-Sequence": str(_NEVER_STORED)})
        except StreamError as refused:
            if found := _LAST_SEQUENCE.search(str(refused)):
                return int(found.group(1))
            raise
        raise StreamError(f"{subject} stored a question")


async def dispatch(bus: ControlBus, site: str, taken: TakenJob, worker: str, incarnation: str | None, by: str) -> bool:
    """Puts a queued job into a worker's own queue, then removes it from the site's and tells its decode worker, as process `by`.

    `incarnation`: process that is to take it, by what is known; None: not known.

    Returns False when it had been dispatched before, to this worker or another one: then only its removal is made good.

    Raises StreamError, BusTimeoutError (it may be stored: then the next try returns False), NoRespondersError, NotConnectedError,
    MessageTooLargeError; the job stays in the site's queue then."""
    waited_s = taken.age_s
    job = replace(taken.job, waited_s=waited_s)
    headers = _headers(job, job.timeout_s - waited_s, taken.context)
    headers["Nats-Msg-Id"] = f"{job.decode_site}/{job.transfer.object_name}"  # no pd site can take the name of another's job
    was_there = await publish_acknowledged(bus, subjects.dispatched_jobs(site, worker), encode(job), _TRY_S, headers)
    if not was_there:
        transfer = job.transfer
        told = PrefillDispatched(
            transfer_id=transfer.transfer_id,
            attempt=transfer.attempt,
            nuid=transfer.nuid,
            worker=worker,
            incarnation=incarnation,
        )
        await bus.publish(subjects.progress_from(job.reply_to, site, by), told, parent=taken.context)
    await taken.ack()
    return not was_there


def _headers(job: PrefillJob, useful_s: float, parent: Span | Context | None) -> Headers:
    return {
        "Nats-Msg-Id": job.transfer.object_name,
        "Nats-TTL": f"{max(1, math.ceil(useful_s))}s",
    } | (trace_headers(parent) or {})
