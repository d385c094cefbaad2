"""Readiness of a prefill worker: each thing that it needs is missed by name, and found again."""

from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry

from prfaas.bus.endpoint import NatsEndpoint
from prfaas.contracts import subjects
from prfaas.engine.emulated import EmulatedConfig
from prfaas.engine.factory import EngineConfig
from prfaas.process.runner import ServiceContext
from prfaas.process.tasks import Tasks
from prfaas.stack.nats_server import NatsServer, plain_config
from prfaas.telemetry.tracing import Tracing
from prfaas_prefill_worker.config import PrefillWorkerConfig
from prfaas_prefill_worker.service import PrefillWorkerService
from tests.bus.readiness import lose_server, ready_worker, stream_taken, until_reason

SITE = "home"


async def test_a_prefill_worker_without_its_job_queue_or_its_server_is_not_ready(tmp_path: Path) -> None:
    tasks = Tasks()
    async with NatsServer(tmp_path / "nats", partial(plain_config, domain=SITE)) as server:
        endpoint = NatsEndpoint(url=server.client_url)
        emulated = EmulatedConfig(time_scale=1e6, byte_scale=6000.0, token_scale=32.0)
        config = PrefillWorkerConfig(
            site=SITE,
            control=endpoint,
            bulk=endpoint,
            serves=(SITE,),
            engine=EngineConfig(engine="emulated", model="emulated-1t", chunk_tokens=64, emulated=emulated),
        )
        worker = PrefillWorkerService(config, ServiceContext(tasks, CollectorRegistry(), Tracing()))
        async with ready_worker(worker, server, SITE), stream_taken(server.client_url, subjects.jobs_stream(SITE, SITE)):
            await until_reason(worker.ready, "the job queue")
        await lose_server(worker, server, tasks)
