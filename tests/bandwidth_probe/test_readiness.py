"""Readiness of a bandwidth probe: each connection that it needs is missed by name."""

from pathlib import Path

from prometheus_client import CollectorRegistry

from prfaas.bus.endpoint import NatsEndpoint
from prfaas.process.runner import ServiceContext
from prfaas.process.tasks import Tasks
from prfaas.stack.nats_server import NatsServer
from prfaas.telemetry.tracing import Tracing
from prfaas_bandwidth_probe.config import BandwidthProbeConfig
from prfaas_bandwidth_probe.service import BandwidthProbeService
from tests.bus.readiness import DEADLINE_S, until_reason


async def test_a_probe_without_one_of_its_connections_is_not_ready(tmp_path: Path) -> None:
    tasks = Tasks()
    async with NatsServer(tmp_path / "control") as control, NatsServer(tmp_path / "bulk") as bulk:
        config = BandwidthProbeConfig(
            site="home", control=NatsEndpoint(url=control.client_url), bulk=NatsEndpoint(url=bulk.client_url)
        )
        probe = BandwidthProbeService(config, ServiceContext(tasks, CollectorRegistry(), Tracing()))
        await probe.start()
        assert probe.ready() is None
        await bulk.stop()
        await until_reason(probe.ready, "the bulk connection")
        await control.stop()
        await until_reason(probe.ready, "the control connection")
        await tasks.cancel_all(DEADLINE_S)
        await probe.stop()
        assert not tasks.failed.done(), tasks.failed.result()
