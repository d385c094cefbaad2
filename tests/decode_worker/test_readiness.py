"""Readiness of a decode worker: each thing that it needs is missed by name, and found again."""

from functools import partial
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from prfaas.bus.endpoint import NatsEndpoint
from prfaas.engine.emulated import EmulatedConfig
from prfaas.engine.factory import EngineConfig
from prfaas.process.runner import ServiceContext
from prfaas.process.tasks import Tasks
from prfaas.stack.nats_server import NatsServer, plain_config
from prfaas.telemetry.tracing import Tracing
from prfaas.transfer.bucket_keeper import KVBucketKeeper
from prfaas_decode_worker.config import DecodeWorkerConfig
from prfaas_decode_worker.service import DecodeWorkerService
from tests.bus.readiness import lose_server, ready_worker, stream_taken, until_reason

SITE = "home"


async def test_a_decode_worker_without_its_kv_bucket_or_its_server_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prfaas_decode_worker.service.KVBucketKeeper", partial(KVBucketKeeper, interval_s=0.2))
    tasks = Tasks()
    async with NatsServer(tmp_path / "nats", partial(plain_config, domain=SITE)) as server:
        endpoint = NatsEndpoint(url=server.client_url)
        emulated = EmulatedConfig(time_scale=1e6, byte_scale=6000.0, token_scale=32.0)
        config = DecodeWorkerConfig(
            site=SITE,
            control=endpoint,
            bulk=endpoint,
            engine=EngineConfig(engine="emulated", model="emulated-1t", chunk_tokens=64, emulated=emulated),
            bucket_mib=16,
        )
        worker = DecodeWorkerService(config, ServiceContext(tasks, CollectorRegistry(), Tracing()))
        async with ready_worker(worker, server, SITE), stream_taken(server.client_url, "OBJ_"):
            await until_reason(worker.ready, "the bucket")
        await lose_server(worker, server, tasks)
