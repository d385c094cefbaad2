"""Several prefill worker processes flood one link: together they stay within the budget of their site, and use it."""

import asyncio
import bisect
import time
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from infra.sites import Role
from infra.stack import Stack
from load.client import Arrival, Record, Target, random_bytes, replay
from load.emulated_stack import FAR, HOME, MODEL, two_sites
from prfaas.contracts.to_probe import EGRESS_HEADROOM

BUDGET_MBIT = 32.0
WORKERS = 3
SECONDS = 5.0
SAMPLE_S = 0.1
REQUESTS = 24


class Egress:
    """What has left a site on its bulk leaf connection, as its server counts it, every 100 ms."""

    def __init__(self, stack: Stack) -> None:
        self._server = stack.sites.servers[FAR]
        self.samples: list[tuple[float, int]] = []

    async def sample(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            leafs = (await self._server.monitor("leafz"))["leafs"]
            self.samples.append((time.monotonic(), sum(leaf["out_bytes"] for leaf in leafs if leaf["account"] == "BULK")))
            await asyncio.sleep(SAMPLE_S)

    def rates(self) -> list[float]:
        """Over every second that begins with a sample, in bytes/s: to the first sample after it."""
        times = [at for at, _ in self.samples]
        found = []
        for start, before in self.samples:
            end = bisect.bisect_left(times, start + 1.0)
            if end < len(times):
                found.append((self.samples[end][1] - before) / (times[end] - start))
        return found


async def flood(stack: Stack) -> list[Record]:
    """More at once than the budget carries in the time."""
    target = Target(url=stack.gateway_url(HOME), model=MODEL, timeout_s=200.0, ttft_deadline_s=190.0)
    return await replay(target, [Arrival(0.02 * index, 512, 2) for index in range(REQUESTS)], random_bytes(seed=3))


async def leased_bytes_per_s(stack: Stack) -> float:
    async with httpx.AsyncClient(timeout=10.0) as client:
        port = stack.process(FAR, Role.BANDWIDTH_PROBE).http_port
        page = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    families = {family.name: family for family in text_string_to_metric_families(page)}
    (sample,) = families["prfaas_link_leased_bytes_per_second"].samples
    return float(sample.value)


@pytest.mark.timeout(300)
async def test_processes_together_keep_the_budget_and_use_it(tmp_path: Path) -> None:
    description = two_sites(remote_workers=WORKERS, rate_mbit=400.0, egress_mbit=BUDGET_MBIT)
    async with Stack(description, tmp_path) as stack:
        asked = asyncio.create_task(flood(stack))
        await asyncio.sleep(2.0)  # prefill runs and fills what workers may hold back
        egress = Egress(stack)
        await egress.sample(SECONDS)
        leased = await leased_bytes_per_s(stack)
        records = await asked
        workers = {
            name for (site, name), process in stack.services.items() if site == FAR and process.role == Role.PREFILL_WORKER
        }
        took_part = {name for name in workers if b'"job_taken"' in (tmp_path / FAR / f"{name}.log").read_bytes()}
    assert [(record.status, record.error) for record in records] == [(200, "")] * REQUESTS
    assert took_part == workers
    budget = BUDGET_MBIT * 1e6 / 8
    print("egress over budget, each second:", [round(rate / budget, 3) for rate in egress.rates()])
    assert leased == pytest.approx((1 - EGRESS_HEADROOM) * budget, rel=0.02), "the probe has shared it out"
    assert max(egress.rates()) <= 1.05 * budget
    whole = (egress.samples[-1][1] - egress.samples[0][1]) / (egress.samples[-1][0] - egress.samples[0][0])
    assert whole >= 0.9 * budget
