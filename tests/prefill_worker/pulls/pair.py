"""Two real prefill workers of a site, with one server: one has a prefix, the other pulls it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from prfaas.contracts.kv import PrefixSource
from prfaas.engine.emulated import EmulatedConfig
from prfaas.engine.factory import EngineConfig
from prfaas.kvcache.compute_speed import ComputeSpeed
from prfaas.stack.nats_server import NatsServer
from prfaas_prefill_worker.pulls import holder, pull_clock, puller
from tests.prefill_worker.prefix_place import BLOCK_TOKENS, DEADLINE_S, EMULATED, MODEL, SITE, Place, prefill_worker

SLOW = EngineConfig(
    engine="emulated",
    model=MODEL,
    chunk_tokens=BLOCK_TOKENS,
    emulated=EmulatedConfig(time_scale=5.0, byte_scale=EMULATED.byte_scale, token_scale=EMULATED.token_scale),
)
"""An engine to which a few blocks take a while: a pull of them has about as long."""


def source(tokens: int, worker: str = "p1", site: str = SITE, timeout_s: float = DEADLINE_S) -> PrefixSource:
    return PrefixSource(site=site, worker=worker, tokens=tokens, timeout_s=timeout_s)


class Pair(NamedTuple):
    holder: Place
    puller: Place

    def pulls(self, result: str, site: str = SITE) -> float:
        return self.puller.counted("prfaas_prefix_pulls_total", from_site=site, result=result)

    def sends(self, result: str, site: str = "") -> float:
        return self.holder.counted("prfaas_prefix_sends_total", to_site=site, result=result)

    async def until_sent(self) -> None:
        """Returns once the holder is done: the puller has the prefix a moment before."""
        async with asyncio.timeout(DEADLINE_S):
            while not self.sends("done", SITE) or self.holder.worker._prefix_cache.pinned:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def two_workers(server: NatsServer, of_holder: dict[str, Any], of_puller: dict[str, Any]) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(prefill_worker(server, engine=SLOW, **of_holder))
        other = await stack.enter_async_context(prefill_worker(server, name="p2", engine=SLOW, **of_puller))
        yield Pair(one, other)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with NatsServer(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No stall of the machine makes a pull late."""
    for module in (holder, puller, pull_clock):
        monkeypatch.setattr(module, "BEGIN_S", DEADLINE_S)
    monkeypatch.setattr(ComputeSpeed, "seconds", lambda speed, start, end: float(end - start))


@pytest.fixture
async def pair(server: NatsServer, patient: None) -> AsyncIterator[Pair]:
    async with two_workers(server, {}, {}) as pair:
        yield pair


@pytest.fixture
async def hasty(server: NatsServer) -> AsyncIterator[Pair]:
    """Two workers that soon compute what does not come."""
    async with two_workers(server, {}, {}) as pair:
        yield pair
