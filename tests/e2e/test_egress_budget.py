"""Several prefill worker processes send on one link: together they stay within the budget of their site, and use it."""

import asyncio
import bisect
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from infra.sites import Role
from infra.stack import Stack
from load.emulated_stack import FAR, HOME, MODEL, two_sites
from prfaas.contracts.to_prefill import ALONE_AFTER_S
from prfaas.contracts.to_probe import EGRESS_HEADROOM
from prfaas.replay.arrival import Arrival
from prfaas.replay.client import Target
from prfaas.replay.prompts import TokenPrompts
from prfaas.replay.record import Record
from prfaas.replay.send import replay

BUDGET_MBIT = 32.0
BUDGET = BUDGET_MBIT * 1e6 / 8
WORKERS = 3
SAMPLE_S = 0.1


class Egress:
    """Samples the bytes that left a site on its bulk leaf connection, as its server counts them, every 100 ms."""

    def __init__(self, stack: Stack) -> None:
        self._server = stack.sites.servers[FAR]
        self.samples: list[tuple[float, int]] = []

    async def sample(self) -> None:
        while True:
            leafs = (await self._server.monitor("leafz"))["leafs"]
            self.samples.append(
                (time.monotonic(), sum(leaf["out_bytes"] for leaf in leafs if leaf["account"].startswith("BULK_")))
            )
            await asyncio.sleep(SAMPLE_S)

    @property
    def rates(self) -> list[float]:
        """Rate over every second that begins with a sample, in bytes/s: to the first sample after it."""
        times = [at for at, _ in self.samples]
        found = []
        for start, before in self.samples:
            end = bisect.bisect_left(times, start + 1.0)
            if end < len(times):
                found.append((self.samples[end][1] - before) / (times[end] - start))
        return found

    @property
    def mean(self) -> float:
        (start, before), (end, after) = self.samples[0], self.samples[-1]
        return (after - before) / (end - start)


@contextlib.asynccontextmanager
async def counting(stack: Stack) -> AsyncIterator[Egress]:
    egress = Egress(stack)
    sampling = asyncio.create_task(egress.sample())
    try:
        yield egress
    finally:
        sampling.cancel()
        await asyncio.wait([sampling])


async def ask(stack: Stack, requests: int, prompt_tokens: int, seed: int) -> list[Record]:
    target = Target(url=stack.gateway_url(HOME), model=MODEL, timeout_s=200.0, ttft_deadline_s=190.0)
    return await replay(target, [Arrival(0.02 * index, prompt_tokens, 2) for index in range(requests)], TokenPrompts(seed))


def all_answered(records: list[Record]) -> bool:
    return all((record.status, record.error) == (200, "") for record in records)


async def leased_bytes_per_s(stack: Stack) -> float:
    async with httpx.AsyncClient(timeout=10.0) as client:
        port = stack.process(FAR, Role.BANDWIDTH_PROBE).http_port
        page = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    families = {family.name: family for family in text_string_to_metric_families(page)}
    (sample,) = families["prfaas_link_leased_bytes_per_second"].samples
    return float(sample.value)


@pytest.mark.timeout(900)
async def test_processes_together_keep_the_budget_and_use_it(tmp_path: Path) -> None:
    description = two_sites(remote_workers=WORKERS, rate_mbit=400.0, egress_mbit=BUDGET_MBIT)
    async with Stack(description, tmp_path) as stack:
        async with counting(stack) as alone:
            assert all_answered(await ask(stack, 1, 4000, seed=1))
        assert max(alone.rates) >= 0.85 * BUDGET, "one worker has what the others do not need"

        asked = asyncio.create_task(ask(stack, 24, 512, seed=2))
        await asyncio.sleep(2.0)  # prefill runs and fills what workers may hold back
        async with counting(stack) as flood:
            await asyncio.sleep(4.0)
        assert await leased_bytes_per_s(stack) == pytest.approx((1 - EGRESS_HEADROOM) * BUDGET, rel=0.02)
        async with counting(stack) as orphaned:
            stack.process(FAR, Role.BANDWIDTH_PROBE).kill()
            await asyncio.sleep(ALONE_AFTER_S + 2.0)
        assert all_answered(await asked)
        for name in ("p0", "p1", "p2"):
            assert b'"job_taken"' in (tmp_path / FAR / f"{name}.log").read_bytes(), f"{name} took no part"
    print("egress over budget, each second:", [round(rate / BUDGET, 3) for rate in [*flood.rates, *orphaned.rates]])
    assert flood.mean >= 0.9 * BUDGET
    assert max(alone.rates + flood.rates + orphaned.rates) <= 1.05 * BUDGET
    assert orphaned.rates[-1] > 0.3 * BUDGET, "without the probe each goes on with its part"
