"""Loads on a live stack of the paper's machines, and whether anything but the model was measured."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from load.machine import CpuMeter, CpuUse
from load.paper.stack import MODEL, Scales, description
from load.report import Report, Slo, summarize
from load.simulate.paper import FAR, H20_NAME, H200_NAME, HOME, STEADY, Deployment, scenario
from load.simulate.scenario import LinkSpec, Scenario, Timing
from load.simulate.world import simulate
from prfaas.replay.arrival import Arrival
from prfaas.replay.client import Target
from prfaas.replay.prompts import TokenPrompts
from prfaas.replay.record import Record
from prfaas.replay.send import replay
from prfaas.site.sites import Role
from prfaas.stack.stack import READY_DEADLINE_S, STOP_DEADLINE_S, Stack
from prfaas.wan.control import LinkChange

WARM_UP = 0.2
"""Share of a run that is not looked at: batches fill up."""
TTFT_DEADLINE_S = 120.0
"""Far above the SLO, so that requests are late and not refused."""
PREFILL_TIMER = "vllm:request_prefill_time_seconds"
STEP_TIMER = "prfaas_decode_step_seconds"

Timers = dict[tuple[str, str], tuple[float, float]]
"""(site, timer) -> (sum in s, count) over the site's workers."""


class Pacing(msgspec.Struct, frozen=True, kw_only=True):
    """Error of the emulated engines' times: measured over nominal, minus 1. Prefill includes waiting for the link."""

    prefill: dict[str, float]
    """Site -> measured over nominal, minus 1."""
    step: float
    """The same for decode steps; positive too where batches above BS_max made them longer."""


class LiveRun(msgspec.Struct, frozen=True, kw_only=True):
    report: Report
    simulated: Report
    """The same arrivals through the simulation."""
    cpu: CpuUse
    pacing: Pacing
    cached_share: float
    """Share of the prompts' tokens that a prefill worker had cached."""
    simulated_cached_share: float


class LiveStack:
    """Arrivals, links, durations and reports are in the paper's seconds, bytes and tokens."""

    def __init__(self, stack: Stack, deployment: Deployment, scales: Scales) -> None:
        self._stack = stack
        self._deployment = deployment
        self._scales = scales
        self._keys = deployment.keys
        self._runs = 0
        self._engines = {HOME: scales.engine(H20_NAME), FAR: scales.engine(H200_NAME)}

    async def use(self, keys: dict[str, Any]) -> None:
        """Another policy: the scheduler starts again with these keys."""
        scheduler = self._stack.process(HOME, Role.SCHEDULER)
        await scheduler.stop(STOP_DEADLINE_S)
        await scheduler.configure(self._scales.keys(keys)).spawn()
        await scheduler.wait_ready(READY_DEADLINE_S)
        await self._stack.wait_introduced()
        self._keys = keys

    async def run(self, arrivals: Sequence[Arrival], duration_s: float, slo: Slo, link: LinkSpec = STEADY) -> LiveRun:
        """Returns when all is answered."""
        scales = self._scales
        scaled = scales.arrivals(arrivals)
        target = Target(
            url=self._stack.gateway_url(HOME),
            model=MODEL,
            timeout_s=10 * TTFT_DEADLINE_S / scales.time,
            ttft_deadline_s=TTFT_DEADLINE_S / scales.time,
        )
        before = await self._timers()
        meter = CpuMeter(process.pid for process in self._stack.services.values()).start()
        shaping = asyncio.create_task(self._shape(link))
        try:
            # Of no use to one run is what another one has left in caches.
            self._runs += 1
            prompts = TokenPrompts(self._runs, block_tokens=scales.chunk_tokens if scales.cache_mib else 0)
            records = await replay(target, scaled, prompts)
        finally:
            shaping.cancel()
            await asyncio.gather(shaping, return_exceptions=True)
        cpu = meter.stop()
        await self._set_rate(STEADY.rates[0][1])
        result = simulate(self._scenario(scaled, link))
        tokens = sum(arrival.prompt_tokens for arrival in scaled)
        return LiveRun(
            report=self._report(records, duration_s, slo),
            simulated=self._report(result.records[HOME], duration_s, slo),
            cpu=cpu,
            pacing=self._pacing(records, before, await self._timers()),
            cached_share=sum(record.cached_tokens for record in records) / tokens,
            simulated_cached_share=sum(result.cached_tokens.get(site, 0) for site in (HOME, FAR)) / tokens,
        )

    def _scenario(self, scaled: Sequence[Arrival], link: LinkSpec) -> Scenario:
        scales = self._scales
        return scenario(
            self._deployment,
            scaled,
            keys=scales.keys(self._keys),
            link=scales.link(link),
            timing=Timing(ttft_deadline_s=TTFT_DEADLINE_S / scales.time),
            token_scale=scales.tokens,
            time_scale=scales.time,
            cache_bytes=scales.cache_bytes,
            block_tokens=scales.block_tokens,
        )

    # ---- the link

    async def _shape(self, link: LinkSpec) -> None:
        started_s = asyncio.get_running_loop().time()
        for start_s, bytes_per_s in link.rates:
            await asyncio.sleep(started_s + start_s / self._scales.time - asyncio.get_running_loop().time())
            await self._set_rate(bytes_per_s)

    async def _set_rate(self, bytes_per_s: float) -> None:
        if (wan := self._stack.sites.links.get((FAR, HOME))) is not None:
            await wan.change(LinkChange(rate_mbit=self._scales.rate_mbit(bytes_per_s)))

    # ---- reports

    def _report(self, records: Sequence[Record], duration_s: float, slo: Slo) -> Report:
        time = self._scales.time
        full = []
        for record in records:
            arrival = record.arrival._replace(arrival_s=record.arrival.arrival_s * time)
            changes: dict[str, Any] = {"arrival": arrival, "tokens": round(record.tokens * self._scales.tokens)}
            for field in ("sent_s", "first_s", "last_s"):
                if (value := getattr(record, field)) is not None:
                    changes[field] = value * time
            changes["gaps_s"] = [gap * time for gap in record.gaps_s]
            full.append(msgspec.structs.replace(record, **changes))
        return summarize(full, slo, WARM_UP * duration_s, duration_s)

    async def _timers(self) -> Timers:
        found: Timers = {}
        async with httpx.AsyncClient(timeout=10.0) as client:
            for (site, _), process in self._stack.services.items():
                if process.role not in (Role.PREFILL_WORKER, Role.DECODE_WORKER):
                    continue
                page = (await client.get(f"http://127.0.0.1:{process.http_port}/metrics")).text
                for family in text_string_to_metric_families(page):
                    if family.name in (PREFILL_TIMER, STEP_TIMER):
                        values = {sample.name.removeprefix(family.name): sample.value for sample in family.samples}
                        total_s, count = found.get((site, family.name), (0.0, 0.0))
                        found[site, family.name] = total_s + values["_sum"], count + values["_count"]
        return found

    def _pacing(self, records: Sequence[Record], before: Timers, after: Timers) -> Pacing:
        def mean_s(site: str, timer: str) -> float | None:
            total_s, count = (now - then for now, then in zip(after[site, timer], before[site, timer], strict=True))
            return total_s / count if count else None

        prefill = {}
        for site, engine in self._engines.items():
            of_site = [r for r in records if not r.error and r.prefill_site == site]
            computed = [(r.arrival.prompt_tokens - 1 - r.cached_tokens, r.cached_tokens) for r in of_site]
            nominal = [engine.prefill_s(tokens, cached_tokens) if tokens else 0.0 for tokens, cached_tokens in computed]
            if sum(nominal) and (measured_s := mean_s(site, PREFILL_TIMER)):
                prefill[site] = measured_s * len(nominal) / sum(nominal) - 1
        step_s = mean_s(HOME, STEP_TIMER)
        return Pacing(prefill=prefill, step=step_s / self._engines[HOME].step_s(1) - 1 if step_s else 0.0)


@contextlib.asynccontextmanager
async def live(deployment: Deployment, scales: Scales) -> AsyncIterator[LiveStack]:
    """Starts the stack and stops it. Raises what Stack.start raises."""
    with tempfile.TemporaryDirectory(prefix=f"prfaas-{deployment.name}-") as directory:
        async with Stack(description(deployment, scales), Path(directory)) as stack:
            yield LiveStack(stack, deployment, scales)
