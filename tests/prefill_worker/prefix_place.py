"""A real prefill worker of the emulated engine with a server of its own, for tests of its prefix cache."""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from prfaas.bus.bulk import BulkLane, ensure_kv_bucket
from prfaas.bus.control import ControlBus
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.contracts import subjects
from prfaas.contracts.kv import KVTransfer, PrefixSource, TransferReport
from prfaas.contracts.to_prefill import PrefillJob
from prfaas.contracts.to_scheduler import BlocksChanged
from prfaas.contracts.wire import pack_tokens
from prfaas.engine.emulated import EmulatedConfig, EmulatedEngine
from prfaas.engine.factory import EngineConfig
from prfaas.process.runner import ServiceContext
from prfaas.process.tasks import Tasks
from prfaas.stack.nats_server import NatsServer
from prfaas.telemetry.tracing import Tracing
from prfaas.transfer.receiver import KVReceiver
from prfaas_prefill_worker.config import PrefillWorkerConfig
from prfaas_prefill_worker.service import PrefillWorkerService
from tests.bus.submitting import dispatch_to

SITE, WORKER, MODEL = "home", "p1", "emulated-1t"
BLOCK_TOKENS = 64
DEADLINE_S = 60.0
EMULATED = EmulatedConfig(time_scale=1e6, byte_scale=6000.0, token_scale=32.0)


def prompt(tokens: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(256), k=tokens)


class Place:
    def __init__(
        self, name: str, bus: ControlBus, lane: BulkLane, worker: PrefillWorkerService, registry: CollectorRegistry
    ) -> None:
        self.bus, self.lane, self.worker, self.registry = bus, lane, worker, registry
        self.name = name
        self.engine = EmulatedEngine(MODEL, EMULATED, chunk_tokens=BLOCK_TOKENS)
        self.changed: asyncio.Queue[BlocksChanged] = asyncio.Queue()

    async def submit(
        self, token_ids: Sequence[int], from_token: int = 0, scope: str = "", pull: PrefixSource | None = None
    ) -> tuple[KVReceiver, Any]:
        """A job that is dispatched to the worker."""
        receiver, job, sequence = await self.make_job(token_ids, from_token, scope, pull)
        await dispatch_to(self.bus, SITE, self.name, job)
        return receiver, sequence

    async def make_job(
        self, token_ids: Sequence[int], from_token: int = 0, scope: str = "", pull: PrefixSource | None = None
    ) -> tuple[KVReceiver, PrefillJob, Any]:
        """A job, the open receiver of its KV, and the sequence into which that goes."""
        transfer = KVTransfer(
            transfer_id=secrets.token_hex(8),
            attempt=1,
            bucket=subjects.kv_bucket(SITE, SITE),
            nuid=secrets.token_hex(11),
            prefill_tokens=len(token_ids),
            from_token=from_token,
            fingerprint=self.engine.describe().fingerprint,
        )
        sequence = self.engine.reserve(len(token_ids), len(token_ids) + 1)
        for piece in self.whole(token_ids[:from_token], full_only=True):
            self.engine.install(sequence, piece)
        install = partial(self.engine.install, sequence)
        receiver = await KVReceiver(self.lane, transfer, self.engine.layout, install, timeout_s=DEADLINE_S).open()
        job = PrefillJob(
            request_id=transfer.transfer_id,
            model=MODEL,
            transfer=transfer,
            token_ids=pack_tokens(token_ids),
            reply_to=subjects.prefill_progress(SITE, "d1"),
            decode_site=SITE,
            cache_scope=scope,
            timeout_s=DEADLINE_S,
            pull=pull,
        )
        return receiver, job, sequence

    async def prefill(
        self, token_ids: Sequence[int], from_token: int = 0, scope: str = "", pull: PrefixSource | None = None
    ) -> TransferReport:
        """Receives a prefill, and asserts that its KV is, byte for byte, that of the whole prompt's prefill. Waits until the
        worker has counted it, which it does when its KV is on the way already."""
        queried_tokens = self.counted("vllm:prefix_cache_queries_total") + len(token_ids)
        receiver, sequence = await self.submit(token_ids, from_token, scope, pull)
        report = await receiver.verified(DEADLINE_S)
        await receiver.close()
        async with asyncio.timeout(DEADLINE_S):
            while self.counted("vllm:prefix_cache_queries_total") < queried_tokens:
                await asyncio.sleep(0.001)
        expected = self.engine.reserve(len(token_ids), len(token_ids) + 1)
        for piece in self.whole(token_ids):
            self.engine.install(expected, piece)
        assert sequence.next_state(0, 7) == expected.next_state(0, 7)
        return report

    def whole(self, token_ids: Sequence[int], *, full_only: bool = False) -> list[Any]:
        pieces: list[Any] = []
        self.engine.prefill(token_ids, pieces.append, lambda: False)
        return [piece for piece in pieces if piece.values.nbytes or not full_only]

    def counted(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, {"model_name": MODEL, **labels}) or 0.0


@asynccontextmanager
async def prefill_worker(server: NatsServer, **keys: Any) -> AsyncIterator[Place]:
    """A worker with `keys` in its configuration, until the block ends: it is drained then."""
    endpoint = NatsEndpoint(url=server.client_url)
    bus = await ControlBus.connect(endpoint, "test")
    lane = await BulkLane.connect(endpoint, name="test", timeout_s=60)
    await ensure_kv_bucket(lane, subjects.kv_bucket(SITE, SITE), max_bytes=1 << 28, ttl_s=60)
    engine = EngineConfig(engine="emulated", model=MODEL, chunk_tokens=BLOCK_TOKENS, emulated=EMULATED)
    own: dict[str, Any] = {"name": WORKER, "engine": engine, **keys}
    config = PrefillWorkerConfig(site=SITE, control=endpoint, bulk=endpoint, serves=(SITE,), **own)
    tasks, registry = Tasks(), CollectorRegistry()
    worker = PrefillWorkerService(config, ServiceContext(tasks, registry, Tracing()))
    place = Place(config.name, bus, lane, worker, registry)
    await bus.subscribe(subjects.all_blocks(SITE), BlocksChanged, place.changed.put_nowait)
    try:
        await worker.start()
        yield place
        await worker.drain(DEADLINE_S)
    finally:
        await tasks.cancel_all(DEADLINE_S)
        await worker.stop()
        await lane.close()
        await bus.drain()
    assert not tasks.failed.done(), tasks.failed.result()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with NatsServer(tmp_path / "nats") as server, prefill_worker(server) as place:
        yield place
