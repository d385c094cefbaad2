"""The dispatcher beside real streams: what it gives to which worker, what it refuses, and what remains when it is gone."""

import asyncio
from collections.abc import AsyncIterator
from math import inf
from pathlib import Path

import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from prfaas.bus import taken_jobs
from prfaas.bus.control import ControlBus
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.bus.errors import BusError
from prfaas.bus.job_consumer import JobConsumer
from prfaas.bus.jobs import JobQueue
from prfaas.bus.taken_jobs import TakenJob
from prfaas.contracts import subjects
from prfaas.contracts.kv import KVTransfer
from prfaas.contracts.to_decode import PrefillDispatched, PrefillFailed, PrefillProgress
from prfaas.contracts.to_prefill import CancelPrefill, DispatcherHere, PrefillJob
from prfaas.contracts.to_scheduler import PrefillReadiness, QueueAnnounced
from prfaas.contracts.wire import pack_tokens
from prfaas.stack.nats_server import NatsServer
from prfaas.telemetry.metrics.queue import QueueMetrics
from prfaas_scheduler.dispatch import Dispatcher
from prfaas_scheduler.queue.objectives import Objectives
from prfaas_scheduler.queue.options import QueueOptions

SITE, HOME, MODEL = "remote", "local", "m"
DEADLINE_S = 60.0
OPTIONS = QueueOptions(put_off_limit_s=inf)


def make_job(name: str, tokens: int = 10, timeout_s: float = 60.0, worker: str | None = None) -> PrefillJob:
    transfer = KVTransfer(
        transfer_id=name,
        attempt=1,
        bucket=subjects.kv_bucket(HOME, SITE),
        nuid="n",
        prefill_tokens=tokens,
        fingerprint="f",
    )
    return PrefillJob(
        request_id=name,
        model=MODEL,
        transfer=transfer,
        token_ids=pack_tokens(range(3)),
        reply_to=subjects.prefill_progress(HOME, "d1"),
        decode_site=HOME,
        timeout_s=timeout_s,
        worker=worker,
    )


class Worker:
    """A prefill worker that computes nothing: it says whether it is ready, and takes what it is given."""

    def __init__(self, bus: ControlBus, name: str, consumer: JobConsumer) -> None:
        self.bus, self.name, self.consumer = bus, name, consumer

    async def say(self, *, ready: bool, seconds_by_tokens: tuple[tuple[float, float], ...] = ()) -> DispatcherHere | None:
        """None without a dispatcher."""
        said = PrefillReadiness(
            worker=self.name,
            incarnation="i",
            model=MODEL,
            ready=ready,
            taken=self.consumer.taken,
            prefill_points=seconds_by_tokens,
        )
        try:
            here = await self.bus.request(subjects.readiness(SITE, self.name), said, DispatcherHere, DEADLINE_S)
        except BusError:
            self.consumer.first_come = True
            return None
        self.consumer.first_come = False
        return here

    async def take(self) -> TakenJob:
        taken = await self.consumer.take(DEADLINE_S)
        assert taken is not None
        return taken

    async def work(self) -> str:
        """Says that it is ready, and does one job."""
        await self.say(ready=True)
        taken = await self.take()
        await self.say(ready=False)
        await taken.ack()
        return taken.job.request_id


class Site:
    def __init__(self, bus: ControlBus) -> None:
        self.bus = bus
        self.registry = CollectorRegistry()
        self.metrics = QueueMetrics(self.registry, lambda tokens: "short" if tokens < 100 else "long")
        self.dispatcher = Dispatcher(bus, SITE, "scheduler", [HOME], Objectives(ttft_s=10.0), OPTIONS, self.metrics)
        self.told: asyncio.Queue[PrefillProgress] = asyncio.Queue()

    async def worker(self, name: str = "p1") -> Worker:
        return Worker(self.bus, name, await JobConsumer.open(self.bus, SITE, MODEL, name, incarnation="i0", serves=[HOME]))

    async def submit(self, *jobs: PrefillJob) -> None:
        for job in jobs:
            await JobQueue(self.bus).submit(SITE, job, timeout_s=DEADLINE_S)

    def queued(self) -> float:
        return self.registry.get_sample_value("prfaas_queue_jobs") or 0.0

    def left(self, result: str) -> float:
        return self.registry.get_sample_value("prfaas_queue_left_total", {"result": result}) or 0.0

    async def until_queued(self, jobs: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while self.queued() != jobs:
                await asyncio.sleep(0.01)

    async def stored(self) -> int:
        streams = subjects.jobs_stream(SITE, HOME), subjects.dispatched_stream(SITE)
        return sum([(await self.bus.jetstream().stream_info(stream)).state.messages for stream in streams])

    async def until_stored(self, jobs: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while await self.stored() != jobs:
                await asyncio.sleep(0.01)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with NatsServer(tmp_path / "nats") as server:
        bus = await ControlBus.connect(NatsEndpoint(url=server.client_url), "test")
        site = Site(bus)
        subject = subjects.progress_from(subjects.prefill_progress(HOME, "d1"), SITE, "scheduler")
        await bus.subscribe(subject, PrefillProgress, site.told.put_nowait)
        yield site
        await site.dispatcher.stop()
        await bus.drain()


async def test_jobs_go_to_a_worker_in_the_order_of_their_due_dates(site: Site) -> None:
    worker = await site.worker()
    await site.dispatcher.start()
    await worker.say(ready=False)
    await site.submit(make_job("long", tokens=100_000), make_job("due first", timeout_s=5.0), make_job("short"))
    await site.until_queued(3)
    assert [await worker.work() for _ in range(3)] == ["due first", "short", "long"]
    await site.until_stored(0)
    told = [await site.told.get() for _ in range(3)]
    assert [each.worker for each in told if isinstance(each, PrefillDispatched)] == ["p1"] * 3
    assert site.left("dispatched") == 3


async def test_a_job_waits_for_the_worker_that_has_its_prefix(site: Site) -> None:
    holder, other = await site.worker("p1"), await site.worker("p2")
    await site.dispatcher.start()
    for worker in (holder, other):
        await worker.say(ready=True)
    await site.submit(make_job("named", worker="p1"))
    assert (await holder.take()).job.request_id == "named"
    await site.submit(make_job("next", worker="p1"), make_job("any"))
    assert (await other.take()).job.request_id == "any"


async def test_what_no_worker_can_come_to_in_time_is_refused_at_once_with_the_time_to_come_back(site: Site) -> None:
    worker = await site.worker()
    await site.dispatcher.start()
    await worker.say(ready=True, seconds_by_tokens=((10.0, 8.0),))
    await site.submit(make_job("first"))
    await worker.take()
    await site.submit(make_job("hopeless", timeout_s=7.0))
    while not isinstance(told := await asyncio.wait_for(site.told.get(), DEADLINE_S), PrefillFailed):
        assert isinstance(told, PrefillDispatched)
    assert (told.transfer_id, told.code, told.nuid) == ("hopeless", "not_in_time", "n")
    assert told.retry_after_s is not None and told.retry_after_s >= 1.0
    await site.until_stored(1)
    assert site.left("refused") == 1
    assert await asyncio.wait_for(site.told.get(), DEADLINE_S) == told, "a refusal that may be lost is told again"
    await site.bus.publish(subjects.cancel_prefill(SITE, HOME), CancelPrefill(transfer_id="hopeless", attempt=1))


async def test_jobs_that_wait_for_a_dead_worker_go_home_and_leave_the_queue(site: Site) -> None:
    dead = Worker(site.bus, "dead", (await site.worker("silent")).consumer)
    await site.dispatcher.start()
    await dead.say(ready=False)
    await site.submit(make_job("stranded"))
    told = await asyncio.wait_for(site.told.get(), DEADLINE_S)
    assert isinstance(told, PrefillFailed) and (told.transfer_id, told.code) == ("stranded", "no_prefill_worker")
    await site.until_stored(0)
    await site.bus.publish(subjects.cancel_prefill(SITE, HOME), CancelPrefill(transfer_id="stranded", attempt=1))


async def test_one_slow_prefill_does_not_have_all_later_ones_refused(site: Site) -> None:
    worker = await site.worker()
    await site.dispatcher.start()
    await worker.say(ready=True, seconds_by_tokens=((10.0, 500.0),))
    await site.submit(make_job("tried"))
    assert (await worker.take()).job.request_id == "tried"
    assert site.left("refused") == 0


async def test_a_cancelled_job_leaves_the_queue_of_its_own_site_only(site: Site) -> None:
    worker = await site.worker()
    await site.dispatcher.start()
    await worker.say(ready=False)
    await site.submit(make_job("gone"), make_job("kept"))
    await site.until_queued(2)
    cancel = CancelPrefill(transfer_id="gone", attempt=1)
    await site.bus.publish(subjects.cancel_prefill(SITE, "east"), CancelPrefill(transfer_id="kept", attempt=1))
    await site.bus.publish(subjects.cancel_prefill(SITE, HOME), cancel)
    await site.until_queued(1)
    assert await worker.work() == "kept"
    await site.until_stored(0)
    assert site.left("cancelled") == 1


async def test_without_a_dispatcher_workers_serve_themselves_and_a_new_one_goes_on_in_order(site: Site) -> None:
    worker = await site.worker()
    await site.dispatcher.start()
    assert await worker.say(ready=False) is not None
    names = ["long", "a", "b", "c", "d"]
    await site.submit(make_job("long", tokens=100_000), *(make_job(name) for name in names[1:]))
    await site.until_queued(5)
    assert await worker.work() == "a"
    await site.dispatcher.stop()
    assert site.queued() == 4 and await site.stored() == 4
    assert await worker.say(ready=True) is None
    alone = await worker.take()
    await alone.ack()
    assert alone.job.request_id in {"long", "b"}, "what was given back may come in either order"
    await site.dispatcher.start()
    await worker.say(ready=False)
    await site.until_queued(3)
    left = [name for name in (*names[1:], "long") if name not in ("a", alone.job.request_id)]
    assert [await worker.work() for _ in range(3)] == left
    await site.until_stored(0)


async def test_jobs_of_a_dispatcher_that_died_come_back_by_themselves(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = await site.worker()
    await site.dispatcher.start()
    await worker.say(ready=False)
    await site.submit(make_job("a"), make_job("b"))
    await site.until_queued(2)
    # It dies: nothing is given back, and nothing is told to be in progress any more.
    for taken in site.dispatcher._held.values():
        taken.forget()
    monkeypatch.setattr(taken_jobs.TakenJob, "give_back", lambda self: asyncio.sleep(0))
    await site.dispatcher.stop()
    assert await worker.say(ready=True) is None
    taken_alone = [await worker.take(), await worker.take()]
    assert sorted(each.job.request_id for each in taken_alone) == ["a", "b"]
    assert [each.deliveries for each in taken_alone] == [1, 1], "no worker had them before"
    for each in taken_alone:
        await each.ack()
    await site.until_stored(0)


async def test_schedulers_hear_of_the_queue(site: Site) -> None:
    announced: asyncio.Queue[QueueAnnounced] = asyncio.Queue()
    await site.bus.subscribe(subjects.queue_state(HOME, SITE), QueueAnnounced, announced.put_nowait)
    worker = await site.worker()
    await site.dispatcher.start()
    await worker.say(ready=False, seconds_by_tokens=((10.0, 2.0),))
    await site.submit(make_job("a"), make_job("b"))
    async with asyncio.timeout(DEADLINE_S):
        while (said := await announced.get()).due_s != 4.0:
            assert said.ready == 0
    assert said.site == SITE
    await worker.say(ready=True)
    async with asyncio.timeout(DEADLINE_S):
        while not 0.0 < (said := await announced.get()).running_s <= 2.0:
            continue
    assert said.due_s == 2.0


async def test_two_dispatchers_at_once_run_nothing_twice(site: Site) -> None:
    workers = [await site.worker(name) for name in ("p1", "p2")]
    rival = Dispatcher(
        site.bus,
        SITE,
        "rival",
        [HOME],
        Objectives(),
        QueueOptions(put_off_limit_s=inf),
        QueueMetrics(CollectorRegistry(), lambda tokens: "any"),
    )
    await site.dispatcher.start()
    await rival.start()
    names = [f"j{number}" for number in range(40)]
    await site.submit(*(make_job(name) for name in names))
    done: list[str] = []

    async def run(worker: Worker) -> None:
        while len(done) < len(names):
            await worker.say(ready=True)
            taken = await worker.consumer.take(0.2)
            if taken is not None:
                done.append(taken.job.request_id)
                await taken.ack()

    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*(run(worker) for worker in workers))
    assert sorted(done) == sorted(names)
    await rival.stop()


async def test_readiness_counts_only_on_the_workers_own_subject(site: Site) -> None:
    honest = await site.worker()
    await site.dispatcher.start()
    forged = PrefillReadiness(worker="p1", incarnation="forged", model=MODEL, ready=True, taken=0)
    with pytest.raises(BusError):
        await site.bus.request(subjects.readiness(SITE, "p2"), forged, DispatcherHere, 0.5)
    await honest.say(ready=False)
    await site.submit(replace(make_job("a"), worker="p1"))
    await site.until_queued(1)
    assert await honest.work() == "a"


async def test_a_dispatcher_that_stood_still_for_too_long_goes_on_with_what_it_gets_again(site: Site) -> None:
    worker = await site.worker()
    await site.dispatcher.start()
    await worker.say(ready=False)
    await site.submit(make_job("a"), make_job("b"))
    await site.until_queued(2)
    first = dict(site.dispatcher._held)
    for taken in first.values():
        taken.forget()  # the queue hears of neither any more, and delivers both again
    async with asyncio.timeout(DEADLINE_S):
        while any(site.dispatcher._held[job_id] is taken for job_id, taken in first.items()):
            await asyncio.sleep(0.01)
    assert site.queued() == 2
    assert [await worker.work() for _ in range(2)] == ["a", "b"]
    await site.until_stored(0)


@pytest.mark.parametrize("tokens", [10, 40_000])
async def test_an_idle_worker_takes_what_no_objective_allows(site: Site, tokens: int) -> None:
    """A slow machine is no reason to refuse what it can do before the request's deadline."""
    worker = await site.worker()
    await site.dispatcher.start()
    await worker.say(ready=True, seconds_by_tokens=((10.0, 30.0), (40_000.0, 45.0)))
    await site.submit(make_job("slow", tokens=tokens))
    assert (await worker.take()).job.request_id == "slow"


async def test_a_patient_request_waits_instead_of_being_refused(site: Site) -> None:
    worker = await site.worker()
    await site.dispatcher.start()
    await worker.say(ready=True, seconds_by_tokens=((10.0, 20.0),))
    await site.submit(*(make_job(f"j{number}", timeout_s=500.0) for number in range(8)))
    await site.until_queued(7)
    assert site.left("refused") == 0
