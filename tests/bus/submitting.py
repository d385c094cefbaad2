"""Jobs put into queues and taken out of them, for tests."""

import asyncio

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import NoRespondersError
from prfaas.bus.job_streams import QUEUED_ACK_WAIT_S, queued_consumer
from prfaas.bus.jobs import JobQueue
from prfaas.bus.server_clock import ServerClock
from prfaas.bus.taken_jobs import JobSource, TakenJob
from prfaas.contracts import subjects
from prfaas.contracts.to_prefill import PrefillJob
from prfaas.contracts.wire import encode


async def submit_once_joined(bus: ControlBus, site: str, job: PrefillJob, *, timeout_s: float) -> None:
    """Submits to another site's queue made a moment ago: the interest in its subjects has yet to cross the link."""
    async with asyncio.timeout(timeout_s):
        while True:
            try:
                await JobQueue(bus).submit(site, job, timeout_s=timeout_s)
                return
            except NoRespondersError:
                await asyncio.sleep(0.02)


async def dispatch_to(bus: ControlBus, site: str, worker: str, job: PrefillJob) -> None:
    """Puts a job into a worker's own queue that was in no other one before."""
    headers = {"Nats-Msg-Id": f"{job.decode_site}/{job.transfer.object_name}", "Nats-TTL": f"{max(1, round(job.timeout_s))}s"}
    await bus.jetstream().publish(subjects.dispatched_jobs(site, worker), encode(job), headers=headers)


async def hold(bus: ControlBus, site: str, home: str, model: str, deadline_s: float) -> TakenJob:
    """Takes the next queued job as a dispatcher does."""
    changed = asyncio.Event()
    source = JobSource(
        bus,
        site,
        home,
        queued_consumer(model),
        subjects.jobs(site, home, model),
        QUEUED_ACK_WAIT_S,
        ServerClock(),
        changed.set,
    )
    await source.open()
    async with asyncio.timeout(deadline_s):
        await source.pull(deadline_s)
        while not source.jobs:
            await changed.wait()
            changed.clear()
    await source.close()
    return source.jobs.popleft()
