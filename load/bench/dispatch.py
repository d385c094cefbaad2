"""Cost of the dispatcher: `python -m load.bench.dispatch [--jobs N] [--json FILE]`.

Hop: the time between a job's submission and the moment at which an idle worker has it, at a real nats-server. `queue` is the
least there can be, a job that is taken from the site's queue; `alone` is a worker that dispatches to itself; `dispatched` is the
dispatcher. Back to back: jobs a second of one worker whose jobs take no time, for the wait between two jobs.

Decisions: CPU time of one event in the dispatcher's core, with many workers and jobs that wait, as jobs arrive and workers end.
"""

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from math import inf
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry

from load.json_option import add_json_option, write_json
from load.machine import Conditions, conditions
from load.report import percentile
from prfaas.bus.control import ControlBus
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.bus.job_consumer import JobConsumer
from prfaas.bus.job_streams import queued_consumer
from prfaas.bus.jobs import JobQueue
from prfaas.bus.server_clock import ServerClock
from prfaas.bus.taken_jobs import JobSource, TakenJob
from prfaas.capacity.observed import ObservedTimes
from prfaas.contracts import subjects
from prfaas.contracts.kv import KVTransfer
from prfaas.contracts.terms import Role
from prfaas.contracts.to_prefill import PrefillJob
from prfaas.contracts.to_scheduler import PrefillReadiness
from prfaas.contracts.wire import pack_tokens
from prfaas.process import interruption
from prfaas.stack.nats_server import NatsServer
from prfaas.telemetry.metrics.queue import QueueMetrics
from prfaas.worker.identity import Identity
from prfaas_prefill_worker.readiness import Readiness
from prfaas_scheduler.dispatch import Dispatcher
from prfaas_scheduler.dispatch_core import DispatchCore
from prfaas_scheduler.dispatch_events import JobHeld, ReadinessHeard
from prfaas_scheduler.queue.events import Dispatch, Job
from prfaas_scheduler.queue.objectives import Objectives
from prfaas_scheduler.queue.options import QueueOptions
from prfaas_scheduler.queue.site_queue import SiteQueue

SITE, MODEL, WORKER = "home", "m", "p0"
PROMPT_TOKENS = 2000
WAIT_S = 30.0
SUBMIT_EVERY_S = 0.005
LENGTHS_S = (0.2, 0.5, 1.0, 3.0, 8.0)
"""Work of the jobs of the decisions, drawn evenly."""
PACES = (0.5, 1.0, 1.0, 1.5, 3.0, 8.0)
"""Factors on the times of unlike workers, drawn evenly."""
POINTS = tuple((1000.0 * 2**octave, 0.5 * 2.5**octave) for octave in range(8))
"""Times that a worker of pace 1 observes."""


class Hop(msgspec.Struct, frozen=True, kw_only=True):
    way: str
    p50_ms: float
    p99_ms: float
    back_to_back_jobs_s: float


class Decisions(msgspec.Struct, frozen=True, kw_only=True):
    workers: int
    unlike: bool
    """True when the workers are of unlike speeds."""
    waiting_jobs: int
    p50_us: float
    p99_us: float
    worst_us: float


class Results(msgspec.Struct, frozen=True, kw_only=True):
    conditions: Conditions
    hops: list[Hop]
    decisions: list[Decisions]


def make_job(number: int) -> PrefillJob:
    transfer = KVTransfer(
        transfer_id=f"t{number}",
        attempt=1,
        bucket=subjects.kv_bucket(SITE, SITE),
        nuid="n",
        prefill_tokens=PROMPT_TOKENS,
        fingerprint="f",
    )
    return PrefillJob(
        request_id=f"r{number}",
        model=MODEL,
        transfer=transfer,
        token_ids=pack_tokens(range(PROMPT_TOKENS)),
        reply_to=subjects.prefill_progress(SITE, "d0"),
        decode_site=SITE,
        timeout_s=WAIT_S * 10,
    )


Take = Callable[[], Awaitable[TakenJob]]


async def measure_hop(way: str, jobs: int, take: Take, bus: ControlBus, first: int) -> Hop:
    """`take` returns the worker's next job, and tells the dispatcher, where there is one, that it waits for it."""
    queue = JobQueue(bus)
    waits_s: list[float] = []
    for number in range(first, first + jobs):
        taking = asyncio.ensure_future(take())
        await asyncio.sleep(SUBMIT_EVERY_S)
        begun_at = time.monotonic()
        await queue.submit(SITE, make_job(number), timeout_s=WAIT_S)
        taken = await asyncio.wait_for(taking, WAIT_S)
        waits_s.append(time.monotonic() - begun_at)
        await taken.ack()
    for number in range(first + jobs, first + 2 * jobs):
        await queue.submit(SITE, make_job(number), timeout_s=WAIT_S)
    begun_at = time.monotonic()
    for _ in range(jobs):
        await (await asyncio.wait_for(take(), WAIT_S)).ack()
    return Hop(
        way=way,
        p50_ms=percentile(waits_s, 0.5) * 1e3,
        p99_ms=percentile(waits_s, 0.99) * 1e3,
        back_to_back_jobs_s=jobs / (time.monotonic() - begun_at),
    )


async def hops(jobs: int) -> list[Hop]:
    found: list[Hop] = []
    with tempfile.TemporaryDirectory(prefix="bench-dispatch-") as folder:
        async with NatsServer(Path(folder) / "nats") as server:
            endpoint = NatsEndpoint(url=server.client_url)
            worker_bus, bus = [await ControlBus.connect(endpoint, name) for name in (WORKER, "dispatcher")]
            consumer = await JobConsumer.open(worker_bus, SITE, MODEL, WORKER, incarnation="i0", serves=[SITE])
            changed = asyncio.Event()
            source = JobSource(
                worker_bus,
                SITE,
                SITE,
                queued_consumer(MODEL),
                subjects.jobs(SITE, SITE, MODEL),
                WAIT_S,
                ServerClock(),
                changed.set,
            )
            await source.open()

            async def from_queue() -> TakenJob:
                await source.pull(WAIT_S)
                while not source.jobs:
                    changed.clear()
                    await changed.wait()
                return source.jobs.popleft()

            async def alone() -> TakenJob:
                taken = await consumer.take(WAIT_S)
                assert taken is not None, "no job came in time"
                return taken

            found.append(await measure_hop("queue", jobs, from_queue, bus, 0))
            found.append(await measure_hop("alone", jobs, alone, bus, 2 * jobs))
            metrics = QueueMetrics(CollectorRegistry(), lambda tokens: "any")
            options = QueueOptions(put_off_limit_s=inf)
            dispatcher = Dispatcher(bus, SITE, "dispatcher", [SITE], Objectives(ttft_s=WAIT_S * 10), options, metrics)
            await dispatcher.start()
            identity = Identity(SITE, WORKER, Role.PREFILL)
            readiness = Readiness(worker_bus, identity, "i", MODEL, consumer, ObservedTimes())
            telling = asyncio.create_task(readiness.run())

            async def dispatched() -> TakenJob:
                readiness.set(ready=True)
                taken = await alone()
                readiness.set(ready=False)
                return taken

            await readiness.tell()
            found.append(await measure_hop("dispatched", jobs, dispatched, bus, 4 * jobs))
            telling.cancel()
            await dispatcher.stop()
            for each in (worker_bus, bus):
                await each.drain()
    return found


def decisions(workers: int, waiting_jobs: int, events: int = 20_000, seed: int = 1, *, unlike: bool = False) -> Decisions:
    """Keeps `waiting_jobs` jobs waiting beside busy workers: a job arrives, a worker ends, and so on. `unlike`: workers are of
    several speeds, and each observes its own times anew with every job."""
    rng = random.Random(seed)
    core, now_s, number = DispatchCore(SiteQueue()), 0.0, 0
    taken = dict.fromkeys((f"p{index}" for index in range(workers)), 0)
    paces = {worker: rng.choice(PACES) for worker in taken}
    took_s: list[float] = []

    def arrive() -> None:
        nonlocal number
        number += 1
        work_s = rng.choice(LENGTHS_S)
        # Due late enough that all of it waits: what is refused costs less.
        due_at = now_s + 10.0 * work_s * max(1.0, waiting_jobs / workers)
        job = Job(
            job_id=f"j{number}",
            model=MODEL,
            tenant=f"{number % 8}",
            prefill_tokens=1000,
            work_s=work_s,
            arrived_at=now_s,
            due_at=due_at,
            expires_at=due_at + 1e4,
        )
        begun_at = time.thread_time()
        instructions = core.handle(JobHeld(now_s, job))
        took_s.append(time.thread_time() - begun_at)
        note(instructions)

    def note(instructions: object) -> None:
        assert isinstance(instructions, list)
        for each in instructions:
            if isinstance(each, Dispatch):
                taken[each.worker] += 1

    def say(worker: str) -> None:
        points = (
            tuple((tokens, seconds * paces[worker] * rng.lognormvariate(0.0, 0.1)) for tokens, seconds in POINTS)
            if unlike
            else ()
        )
        readiness = PrefillReadiness(
            worker=worker, incarnation="i", model=MODEL, ready=True, taken=taken[worker], prefill_points=points
        )
        begun_at = time.thread_time()
        instructions = core.handle(ReadinessHeard(now_s, readiness))
        took_s.append(time.thread_time() - begun_at)
        note(instructions)

    for worker in taken:
        say(worker)
    for _ in range(workers + waiting_jobs):
        arrive()
    took_s.clear()
    names = list(taken)
    while len(took_s) < events:
        now_s += statistics.fmean(LENGTHS_S) / workers
        say(rng.choice(names))
        arrive()
    return Decisions(
        workers=workers,
        unlike=unlike,
        waiting_jobs=len(core.queue),
        p50_us=percentile(took_s, 0.5) * 1e6,
        p99_us=percentile(took_s, 0.99) * 1e6,
        worst_us=max(took_s) * 1e6,
    )


def show(results: Results) -> None:
    print(f"{'way':>12} {'p50 ms':>8} {'p99 ms':>8} {'jobs/s':>8}")
    for hop in results.hops:
        print(f"{hop.way:>12} {hop.p50_ms:8.2f} {hop.p99_ms:8.2f} {hop.back_to_back_jobs_s:8.0f}")
    print(f"\n{'workers':>8} {'speeds':>8} {'waiting':>8} {'p50 us':>8} {'p99 us':>8} {'worst us':>9}")
    for each in results.decisions:
        speeds = "unlike" if each.unlike else "alike"
        print(f"{each.workers:8} {speeds:>8} {each.waiting_jobs:8} {each.p50_us:8.0f} {each.p99_us:8.0f} {each.worst_us:9.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=300, help="jobs of each way (%(default)s)")
    add_json_option(parser)
    options = parser.parse_args()
    found = conditions("nats-py")
    sizes = ((10, 100), (100, 1000), (1000, 1000))
    measured = [decisions(workers, waiting, unlike=unlike) for unlike in (False, True) for workers, waiting in sizes]
    results = Results(conditions=found, hops=interruption.run(hops(options.jobs)), decisions=measured)
    show(results)
    write_json(results, options.json)


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
