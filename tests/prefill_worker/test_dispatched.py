"""A prefill worker and the dispatcher of its site: who says which job runs, and what the worker does without one."""

import asyncio
from collections.abc import AsyncIterator
from math import inf

import pytest
from prometheus_client import CollectorRegistry

from prfaas.bus.jobs import JobQueue
from prfaas.contracts import subjects
from prfaas.contracts.to_decode import PrefillDispatched, PrefillFailed, PrefillProgress, PrefillStarted
from prfaas.telemetry.metrics.queue import QueueMetrics
from prfaas_scheduler.dispatch import Dispatcher
from prfaas_scheduler.queue.objectives import Objectives
from prfaas_scheduler.queue.options import QueueOptions
from tests.prefill_worker.prefix_place import DEADLINE_S, SITE, WORKER, Place, place, prompt

__all__ = ["place"]

DISPATCHER = "scheduler"


class Site:
    """The worker's site as its decode worker hears of it."""

    def __init__(self, place: Place) -> None:
        self.place = place
        metrics = QueueMetrics(CollectorRegistry(), lambda tokens: "any")
        options = QueueOptions(put_off_limit_s=inf)
        self.dispatcher = Dispatcher(place.bus, SITE, DISPATCHER, [SITE], Objectives(), options, metrics)
        self.dispatched: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        """(transfer, process that dispatched it)."""
        self.started: asyncio.Queue[str] = asyncio.Queue()

    async def listen(self) -> None:
        for teller in (WORKER, DISPATCHER):
            subject = subjects.progress_from(subjects.prefill_progress(SITE, "d1"), SITE, teller)

            def hear(progress: PrefillProgress, teller: str = teller) -> None:
                assert not isinstance(progress, PrefillFailed), progress
                if isinstance(progress, PrefillDispatched):
                    self.dispatched.put_nowait((progress.transfer_id, teller))
                elif isinstance(progress, PrefillStarted):
                    self.started.put_nowait(progress.transfer_id)

            await self.place.bus.subscribe(subject, PrefillProgress, hear)

    async def submit(self, seed: int) -> str:
        receiver, job, _ = await self.place.make_job(prompt(200, seed))
        await JobQueue(self.place.bus).submit(SITE, job, timeout_s=DEADLINE_S)
        await receiver.verified(DEADLINE_S)
        await receiver.close()
        return job.transfer.transfer_id

    async def until_first_come(self, first_come: bool) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while self.place.worker._consumer.first_come is not first_come:
                await asyncio.sleep(0.01)


@pytest.fixture
async def site(place: Place) -> AsyncIterator[Site]:
    site = Site(place)
    await site.listen()
    yield site
    await site.dispatcher.stop()


async def next_of(queue: "asyncio.Queue[tuple[str, str]]") -> tuple[str, str]:
    return await asyncio.wait_for(queue.get(), DEADLINE_S)


async def test_a_worker_serves_itself_until_a_dispatcher_answers_and_again_when_it_is_gone(site: Site) -> None:
    submitted: list[str] = []

    async def until_dispatched_by(teller: str) -> None:
        """Submits jobs until one comes in this way: those that were asked for before the change may come in the other."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                submitted.append(await site.submit(len(submitted)))
                if await next_of(site.dispatched) == (submitted[-1], teller):
                    return

    assert site.place.worker._consumer.first_come
    await until_dispatched_by(WORKER)
    for _ in range(2):
        await site.dispatcher.start()
        await until_dispatched_by(DISPATCHER)
        await until_dispatched_by(DISPATCHER)
        await site.dispatcher.stop()
        await until_dispatched_by(WORKER)
    started = [site.started.get_nowait() for _ in range(site.started.qsize())]
    assert started == submitted, "each ran once, and in its turn"


async def test_a_worker_that_leaves_takes_what_was_dispatched_to_it_and_gets_no_more(site: Site) -> None:
    await site.dispatcher.start()
    await site.until_first_come(False)
    await site.submit(1)
    await site.place.worker.lifecycle.finish()
    receiver, job, _ = await site.place.make_job(prompt(200, 2))
    await JobQueue(site.place.bus).submit(SITE, job, timeout_s=DEADLINE_S)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(receiver.verified(DEADLINE_S), 1.5)
    await site.place.worker.lifecycle.resume()
    await receiver.verified(DEADLINE_S)
    await receiver.close()
