"""Readiness of a scheduler: each thing that it needs is missed by name, and found again."""

from functools import partial
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from prfaas.contracts import subjects
from prfaas.process.runner import ServiceContext
from prfaas.process.tasks import Tasks
from prfaas.stack.nats_server import NatsServer, plain_config
from prfaas.telemetry.tracing import Tracing
from prfaas_scheduler.config import SchedulerConfig
from prfaas_scheduler.service import SchedulerService
from tests.bus.readiness import lose_server, stream_taken, until_ready, until_reason

SITE = "home"


async def test_a_scheduler_without_its_buckets_or_its_server_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prfaas.bus.presence._ENSURE_EVERY_S", 0.2)
    tasks = Tasks()
    async with NatsServer(tmp_path / "nats", partial(plain_config, domain=SITE)) as server:
        config = msgspec.convert({"site": SITE, "control": {"url": server.client_url}, "policy": "local_only"}, SchedulerConfig)
        scheduler = SchedulerService(config, ServiceContext(tasks, CollectorRegistry(), Tracing()))
        await scheduler.start()
        await until_ready(scheduler.ready)
        for bucket in (subjects.workers_bucket(SITE), subjects.links_bucket(SITE)):
            async with stream_taken(server.client_url, f"KV_{bucket}"):
                await until_reason(scheduler.ready, f"the bucket {bucket}")
            await until_ready(scheduler.ready)
        await lose_server(scheduler, server, tasks)
