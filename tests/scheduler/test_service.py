"""The scheduler at a real server: it finds out what workers have cached, from their announcements and by asking."""

import asyncio
from array import array
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from prfaas.bus.control import ControlBus
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.bus.presence import put_entry
from prfaas.contracts import subjects
from prfaas.contracts.terms import Role
from prfaas.contracts.to_gateway import Placement, Refusal
from prfaas.contracts.to_scheduler import BlocksChanged, BlocksHeld, Heartbeat, PlaceRequest
from prfaas.process.runner import ServiceContext
from prfaas.process.tasks import Tasks
from prfaas.stack.nats_server import NatsServer, plain_config
from prfaas.telemetry.tracing import Tracing
from prfaas_scheduler.config import SchedulerConfig
from prfaas_scheduler.service import SchedulerService

DEADLINE_S = 60.0
SITE = "home"
POINTS = ((100.0, 0.1), (8000.0, 8.0))


def packed(count: int) -> bytes:
    return bytes(array("Q", range(1, 1 + count)))


class Worker:
    """Says what a prefill worker with `held` blocks would say, and counts how often it is asked."""

    def __init__(self, bus: ControlBus, name: str, held: int) -> None:
        self.bus, self.name, self.held = bus, name, held
        self.sequence = 0
        self.asked: asyncio.Queue[None] = asyncio.Queue()

    async def start(self) -> None:
        await self.bus.serve(subjects.held_blocks(SITE, Role.PREFILL, self.name), None, self._tell)

    async def beat(self) -> None:
        beat = Heartbeat(
            site=SITE,
            worker=self.name,
            role=Role.PREFILL,
            model="m",
            fingerprint="f",
            max_context_tokens=9000,
            prefill_points=POINTS,
        )
        await put_entry(self.bus, subjects.workers_bucket(SITE), beat, timeout_s=DEADLINE_S)

    async def announce(self, held: int, *, lost: bool = False) -> None:
        self.held = held
        self.sequence += 1
        if not lost:
            changed = BlocksChanged(
                site=SITE, worker=self.name, role=Role.PREFILL, incarnation="i", sequence=self.sequence, stored=packed(held)
            )
            await self.bus.publish(subjects.blocks(changed.site, changed.site, changed.role.value, changed.worker), changed)

    async def _tell(self, _: None) -> BlocksHeld:
        self.asked.put_nowait(None)
        return BlocksHeld(incarnation="i", sequence=self.sequence, hashes=packed(self.held))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with NatsServer(tmp_path / "nats", partial(plain_config, domain=SITE)) as running:
        yield running


@pytest.fixture
async def registry(server: NatsServer) -> AsyncIterator[CollectorRegistry]:
    """Registry of a scheduler that runs."""
    config = msgspec.convert({"site": SITE, "control": {"url": server.client_url}, "policy": "local_only"}, SchedulerConfig)
    registry = CollectorRegistry()
    tasks = Tasks()
    service = SchedulerService(config, ServiceContext(tasks, registry, Tracing(None)))
    await service.start()
    yield registry
    await tasks.cancel_all(DEADLINE_S)
    await service.stop()
    assert not tasks.failed.done()


@pytest.fixture
async def bus(server: NatsServer) -> AsyncIterator[ControlBus]:
    connected = await ControlBus.connect(NatsEndpoint(url=server.client_url), "workers")
    yield connected
    await connected.drain()


async def placed(bus: ControlBus, prompt_tokens: int, request_id: str) -> Placement:
    request = PlaceRequest(
        request_id=request_id,
        model="m",
        prompt_tokens=prompt_tokens,
        max_tokens=1,
        ttft_deadline_s=30.0,
        block_hashes=packed(prompt_tokens // 512),
        block_tokens=512,
    )
    answer = await bus.request(subjects.place(SITE), request, Placement | Refusal, DEADLINE_S)
    assert isinstance(answer, Placement), answer
    return answer


async def until(registry: CollectorRegistry, name: str, value: float, labels: dict[str, str] | None = None) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while registry.get_sample_value(name, labels or {}) != value:
            await asyncio.sleep(0.01)


async def test_cached_blocks_are_asked_for_heard_of_and_used(registry: CollectorRegistry, bus: ControlBus) -> None:
    old = Worker(bus, "p1", held=4)
    old.sequence = 9
    await old.start()
    decoder = Heartbeat(
        site=SITE, worker="d0", role=Role.DECODE, model="m", fingerprint="f", max_context_tokens=9000, slots=9, waiting_limit=9
    )
    await put_entry(bus, subjects.workers_bucket(SITE), decoder, timeout_s=DEADLINE_S)
    await old.beat()
    other = Worker(bus, "p2", held=0)
    await other.beat()
    async with asyncio.timeout(DEADLINE_S):
        await old.asked.get()
    await until(registry, "prfaas_known_cached_blocks", 4)
    answer = await placed(bus, 4097, "a")
    assert answer.prefill_worker == "p1" and "2048 of 4096 tokens cached at p1" in answer.reason
    assert registry.get_sample_value("prfaas_predicted_hit_tokens_total") == 2048
    await old.announce(6)
    await until(registry, "prfaas_known_cached_blocks", 6)
    await old.announce(7, lost=True)
    await old.announce(8)
    async with asyncio.timeout(DEADLINE_S):
        while old.asked.empty():  # not at once: workers are not asked again and again
            await old.beat()
            await asyncio.sleep(0.1)
    await until(registry, "prfaas_cache_snapshots_total", 2, {"result": "told"})
    assert registry.get_sample_value("prfaas_known_cached_blocks") == 8
    await until(registry, "prfaas_cache_snapshots_total", 2, {"result": "failed"})  # the decode worker and p2 tell nothing
