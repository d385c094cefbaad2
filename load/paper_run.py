"""One deployment of the paper's case, live: its stack, loads of a given rate, and whether anything but the model was measured."""

import contextlib
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from infra.sites import Role
from infra.stack import Stack
from load.arrivals import poisson, scaled_tokens
from load.client import Arrival, Record, Target, random_bytes, replay
from load.machine import CpuMeter, CpuUse
from load.paper_stack import FAR, H20_PROFILE, H200_PROFILE, HOME, MODEL, Scales, description
from load.report import Report, Slo, summarize
from load.simulate.paper import LENGTHS, LINK_BYTES_PER_S, OUTPUT_TOKENS, Deployment, scenario
from load.simulate.scenario import LinkSpec, Timing
from load.simulate.world import simulate

WARM_UP = 0.2
"""Share of a run that is not looked at: batches fill up."""
TTFT_DEADLINE_S = 120.0
"""Of the paper's seconds: far above the SLO, so that requests are late and not refused."""

PREFILL_TIMER = "vllm:request_prefill_time_seconds"
STEP_TIMER = "prfaas_decode_step_seconds"


class Pacing(msgspec.Struct, frozen=True, kw_only=True):
    """How the emulated engines' times came out, as measured over nominal, minus 1. Prefill includes waiting for the link."""

    prefill: dict[str, float]
    """By site."""
    step: float
    """Of decode steps; positive too where batches above BS_max made them longer."""


class LiveRun(msgspec.Struct, frozen=True, kw_only=True):
    """All rates and times in the paper's seconds."""

    rate_req_s: float
    report: Report
    simulated: Report
    """The same arrivals through the simulation."""
    cpu: CpuUse
    pacing: Pacing


class LiveDeployment:
    def __init__(self, stack: Stack, deployment: Deployment, scales: Scales, slo: Slo, *, seconds: float, seed: int) -> None:
        self._stack = stack
        self._deployment = deployment
        self._scales = scales
        self._slo = slo
        self._seconds = seconds
        self._seed = seed
        self._engines = {HOME: scales.engine(H20_PROFILE), FAR: scales.engine(H200_PROFILE)}

    async def run(self, rate_req_s: float) -> LiveRun:
        """`rate_req_s` in the paper's seconds; `seconds` of this machine."""
        arrivals = scaled_tokens(
            poisson(
                LENGTHS,
                rate_req_s=rate_req_s,
                duration_s=self._seconds * self._scales.time,
                output_tokens=OUTPUT_TOKENS,
                seed=self._seed,
            ),
            self._scales.tokens,
            self._scales.time,
        )
        target = Target(
            url=self._stack.gateway_url(HOME),
            model=MODEL,
            timeout_s=10 * TTFT_DEADLINE_S / self._scales.time,
            ttft_deadline_s=TTFT_DEADLINE_S / self._scales.time,
        )
        before = await self._timers()
        meter = CpuMeter(process.pid for process in self._stack.services.values()).start()
        records = await replay(target, arrivals, random_bytes(self._seed))
        cpu = meter.stop()
        return LiveRun(
            rate_req_s=rate_req_s,
            report=self._report(records),
            simulated=self._report(self._simulated(arrivals)),
            cpu=cpu,
            pacing=self._pacing(records, before, await self._timers()),
        )

    def _report(self, records: Sequence[Record]) -> Report:
        """In the paper's seconds and tokens."""
        time, tokens = self._scales.time, self._scales.tokens
        full = []
        for record in records:
            arrival = record.arrival._replace(arrival_s=record.arrival.arrival_s * time)
            changes: dict[str, Any] = {"arrival": arrival, "tokens": round(record.tokens * tokens)}
            for field in ("sent_s", "first_s", "last_s"):
                if (value := getattr(record, field)) is not None:
                    changes[field] = value * time
            changes["gaps_s"] = [gap * time for gap in record.gaps_s]
            full.append(msgspec.structs.replace(record, **changes))
        duration_s = self._seconds * time
        return summarize(full, self._slo, WARM_UP * duration_s, duration_s)

    def _simulated(self, arrivals: Sequence[Arrival]) -> list[Record]:
        time = self._scales.time
        scaled = scenario(
            self._deployment,
            arrivals,
            link=LinkSpec(rates=((0.0, LINK_BYTES_PER_S * time),), rtt_s=self._scales.rtt_ms / 1e3),
            timing=Timing(ttft_deadline_s=TTFT_DEADLINE_S / time),
            token_scale=self._scales.tokens,
            time_scale=time,
        )
        (records,) = simulate(scaled).records.values()
        return records

    # ---- pacing

    async def _timers(self) -> dict[tuple[str, str], tuple[float, float]]:
        """(site, timer) -> (sum in s, count) over the site's workers."""
        found: dict[tuple[str, str], tuple[float, float]] = {}
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

    def _pacing(
        self,
        records: Sequence[Record],
        before: dict[tuple[str, str], tuple[float, float]],
        after: dict[tuple[str, str], tuple[float, float]],
    ) -> Pacing:
        def mean_s(site: str, timer: str) -> float | None:
            total_s, count = (now - then for now, then in zip(after[site, timer], before[site, timer], strict=True))
            return total_s / count if count else None

        prefill = {}
        for site, engine in self._engines.items():
            nominal = [engine.prefill_s(r.arrival.prompt_tokens - 1) for r in records if not r.error and r.prefill_site == site]
            if nominal and (measured_s := mean_s(site, PREFILL_TIMER)):
                prefill[site] = measured_s * len(nominal) / sum(nominal) - 1
        step_s = mean_s(HOME, STEP_TIMER)
        return Pacing(prefill=prefill, step=step_s / self._engines[HOME].step_s(1) - 1 if step_s else 0.0)


@contextlib.asynccontextmanager
async def live(deployment: Deployment, scales: Scales, slo: Slo, *, seconds: float, seed: int) -> AsyncIterator[LiveDeployment]:
    """Starts the stack and stops it. Raises what Stack.start raises."""
    with tempfile.TemporaryDirectory(prefix=f"prfaas-{deployment.name}-") as directory:
        keys = deployment.scheduler_keys(scales.tokens)
        async with Stack(description(deployment, scales, keys), Path(directory)) as stack:
            yield LiveDeployment(stack, deployment, scales, slo, seconds=seconds, seed=seed)
