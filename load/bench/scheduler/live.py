"""The real process `prfaas-scheduler`, asked through a real nats-server while a fleet announces itself there."""

import asyncio
import contextlib
import multiprocessing
import random
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import msgspec
import psutil
from prometheus_client.parser import text_string_to_metric_families

from load.bench.scheduler.caches import BLOCK_TOKENS, Caches
from load.bench.scheduler.fleet import HOME, LENGTHS, MODEL, THRESHOLD_TOKENS, make_fleet
from load.machine import CpuMeter
from load.report import percentile
from prfaas.bus.control import ControlBus
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.bus.presence import INTERVAL_S, Announcer
from prfaas.contracts import subjects
from prfaas.contracts.terms import Role
from prfaas.contracts.to_gateway import Placement, Refusal
from prfaas.contracts.to_scheduler import AttemptEnded, PlaceRequest
from prfaas.process.child import running_with_parent
from prfaas.stack.nats_server import NatsServer, plain_config
from prfaas.stack.service_process import ServiceProcess

OPEN_LOOP_REQ_S = 200.0
OPEN_LOOP_S = 10.0
SATURATED_S = 3.0
IN_FLIGHT = 64
HOLD_S = 2.0
"""Time between a placement and the report that its attempt is over."""
SLOTS = 1_000_000
"""No decode worker is ever full: refusals would be measured instead."""
ALL_KNOWN_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 5.0
READY_TIMEOUT_S = 30.0


class Live(msgspec.Struct, frozen=True, kw_only=True):
    policy: str
    workers: int
    cached_blocks: int
    """Pairs of worker and block that the scheduler knows."""
    asked_req_s: float
    p50_ms: float
    """Time between request and reply, through the server and both Python clients."""
    p99_ms: float
    decision_mean_us: float
    """Mean latency as the process itself counts it, under the same load."""
    decision_p99_at_most_us: float
    """Upper edge of the histogram's bucket."""
    saturated_req_s: float
    """Answers with 64 requests in flight all the time."""
    scheduler_cpu: float
    """Share of one core, at `asked_req_s`."""
    machine_idle: float
    """Idle share of all cores meanwhile: near 0, latencies are those of waiting for a core."""
    outstanding: float
    failed: int
    """Refused or not answered."""


async def measure_live(policy: str, workers: int, cached_blocks: int = 0, seed: int = 1) -> Live:
    caches = Caches(make_fleet(workers), cached_blocks, seed)
    with tempfile.TemporaryDirectory(prefix="bench-scheduler-") as name:
        directory = Path(name)
        async with NatsServer(directory / "nats", partial(plain_config, domain=HOME)) as server:
            config = {
                "site": HOME,
                "name": "scheduler",
                "policy": policy,
                "threshold-tokens": THRESHOLD_TOKENS,
                "control": {"url": server.client_url},
            }
            process = await ServiceProcess("scheduler", "scheduler", config, directory, {}).spawn()
            try:
                await process.wait_ready(READY_TIMEOUT_S)
                async with _announced(server.client_url, workers):
                    await _wait_for(process.http_port, "prfaas_workers", workers)
                    return await _ask(policy, workers, caches, server.client_url, process)
            finally:
                await process.stop(5.0)


async def _ask(policy: str, workers: int, caches: Caches, url: str, process: ServiceProcess) -> Live:
    bus = await ControlBus.connect(NatsEndpoint(url=url), "bench")
    client = _Client(bus, caches)
    try:
        for changed in caches.announced():
            await bus.publish(subjects.blocks(HOME, changed.site, changed.role.value, changed.worker), changed)
        await _wait_for(process.http_port, "prfaas_known_cached_blocks", caches.blocks)
        before = await _decisions(process.http_port)
        meter = CpuMeter([process.pid]).start()
        used_s = _cpu_s(process.pid)
        begun_s = time.monotonic()
        await client.open_loop()
        took_s = time.monotonic() - begun_s
        used_s = _cpu_s(process.pid) - used_s
        idle = meter.stop().idle
        after = await _decisions(process.http_port)
        latencies_s, failed = client.latencies_s, client.failed
        saturated_req_s = await client.closed_loop()
    finally:
        await bus.drain()
    counts = {edge: after.buckets[edge] - before.buckets[edge] for edge in after.buckets}
    total = after.count - before.count
    return Live(
        policy=policy,
        workers=workers,
        cached_blocks=caches.blocks,
        asked_req_s=(len(latencies_s) + failed) / took_s,
        p50_ms=percentile(latencies_s, 0.5) * 1e3,
        p99_ms=percentile(latencies_s, 0.99) * 1e3,
        decision_mean_us=(after.sum_s - before.sum_s) / total * 1e6,
        decision_p99_at_most_us=min(edge for edge, count in counts.items() if count >= 0.99 * total) * 1e6,
        saturated_req_s=saturated_req_s,
        scheduler_cpu=used_s / took_s,
        machine_idle=idle,
        outstanding=OPEN_LOOP_REQ_S * HOLD_S,
        failed=failed + client.failed,
    )


class _Client:
    def __init__(self, bus: ControlBus, caches: Caches) -> None:
        self._bus = bus
        self._caches = caches
        self._random = random.Random(1)
        self._number = 0
        self._ending: set[asyncio.Task[None]] = set()
        self.latencies_s: list[float] = []
        self.failed = 0

    async def open_loop(self) -> None:
        """OPEN_LOOP_REQ_S requests a second, however long the answers take."""
        asking: set[asyncio.Task[None]] = set()
        due_s = time.monotonic()
        end_s = due_s + OPEN_LOOP_S
        while due_s < end_s:
            due_s += self._random.expovariate(OPEN_LOOP_REQ_S)
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            asking.add(asyncio.create_task(self._ask()))
        await asyncio.gather(*asking)

    async def closed_loop(self) -> float:
        """Answers per second with IN_FLIGHT requests in flight."""
        self.latencies_s, self.failed = [], 0
        end_s = time.monotonic() + SATURATED_S

        async def one_after_another() -> None:
            while time.monotonic() < end_s:
                await self._ask()

        await asyncio.gather(*(one_after_another() for _ in range(IN_FLIGHT)))
        await asyncio.gather(*self._ending)
        return len(self.latencies_s) / SATURATED_S

    async def _ask(self) -> None:
        self._number += 1
        tokens, hashes = self._caches.prompt() if self._caches.blocks else (round(LENGTHS.quantile(self._random.random())), b"")
        request = PlaceRequest(
            request_id=f"r{self._number}",
            model=MODEL,
            prompt_tokens=tokens + 1,
            max_tokens=1024,
            ttft_deadline_s=30.0,
            block_hashes=bytes(hashes),
            block_tokens=BLOCK_TOKENS,
        )
        begun_s = time.monotonic()
        try:
            answer = await self._bus.request(subjects.place(HOME), request, Placement | Refusal, ANSWER_TIMEOUT_S)
        except TimeoutError:
            self.failed += 1
            return
        took_s = time.monotonic() - begun_s
        if isinstance(answer, Refusal):
            self.failed += 1
            return
        self.latencies_s.append(took_s)
        task = asyncio.create_task(
            self._end(AttemptEnded(request_id=request.request_id, site=answer.prefill_site, verified=True))
        )
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, ended: AttemptEnded) -> None:
        await asyncio.sleep(HOLD_S)
        await self._bus.publish(subjects.attempts(HOME), ended)


class _Decisions(msgspec.Struct, frozen=True):
    buckets: dict[float, float]
    """Number of decisions by their longest duration, s."""
    sum_s: float
    count: float


async def _metrics(port: int) -> str:
    def get() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5.0) as response:
            return str(response.read().decode())

    return await asyncio.to_thread(get)


async def _decisions(port: int) -> _Decisions:
    samples = [
        sample for family in text_string_to_metric_families(await _metrics(port)) for sample in family.samples
        if sample.name.startswith("prfaas_placement_seconds")
    ]  # fmt: skip
    of = {sample.name.removeprefix("prfaas_placement_seconds"): sample.value for sample in samples}
    buckets = {float(sample.labels["le"]): sample.value for sample in samples if "le" in sample.labels}
    return _Decisions(buckets, of["_sum"], of["_count"])


async def _wait_for(port: int, name: str, value: float) -> None:
    async with asyncio.timeout(ALL_KNOWN_TIMEOUT_S):
        while True:
            families = text_string_to_metric_families(await _metrics(port))
            if sum(sample.value for family in families for sample in family.samples if sample.name == name) == value:
                return
            await asyncio.sleep(0.2)


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


@contextlib.asynccontextmanager
async def _announced(url: str, workers: int) -> AsyncIterator[None]:
    """The fleet's heartbeats, from a process of their own so that they do not delay our requests."""
    announcing = multiprocessing.get_context("spawn").Process(
        target=running_with_parent(_announce), args=(url, workers), daemon=True
    )
    announcing.start()
    try:
        yield
    finally:
        announcing.kill()
        await asyncio.to_thread(announcing.join, 5.0)


def _announce(url: str, workers: int) -> None:
    asyncio.run(_announce_all(url, workers))


async def _announce_all(url: str, workers: int) -> None:
    """Announces all workers over one connection: the scheduler receives the same."""
    bus = await ControlBus.connect(NatsEndpoint(url=url), "fleet")
    fleet = make_fleet(workers)
    beats = [msgspec.structs.replace(beat, slots=SLOTS) if beat.role is Role.DECODE else beat for beat in fleet.beats]
    announcers = [Announcer(bus, [HOME], partial(lambda entry: entry, beat)) for beat in beats]
    announcers += [
        Announcer(bus, [HOME], partial(lambda entry: entry, link), bucket=subjects.links_bucket) for link in fleet.links
    ]

    async def run(announcer: Announcer, first_s: float) -> None:
        await asyncio.sleep(first_s)
        await announcer.run()

    await asyncio.gather(*(run(each, INTERVAL_S * index / len(announcers)) for index, each in enumerate(announcers)))
