"""Two probe processes at two sites, over the emulated link."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from prfaas.bus.control import ControlBus
from prfaas.bus.presence import watch
from prfaas.contracts import subjects
from prfaas.contracts.to_probe import TransferMeasured
from prfaas.contracts.to_scheduler import LinkEstimate
from prfaas.site.sites import Role, load_description
from prfaas.stack.launch import DEMO
from prfaas.stack.running_sites import RunningSites
from prfaas.stack.service_process import ServiceProcess
from prfaas.wan import LinkChange, LinkState

DEADLINE_S = 60.0


@pytest.fixture
async def sites(tmp_path: Path) -> AsyncIterator[RunningSites]:
    async with RunningSites(load_description(DEMO), tmp_path) as running:
        yield running


@pytest.fixture
async def probes(sites: RunningSites, tmp_path: Path) -> AsyncIterator[dict[str, ServiceProcess]]:
    """Keyed by site."""
    processes: dict[str, ServiceProcess] = {}
    for service in sites.description.services:
        if service.role is Role.BANDWIDTH_PROBE:
            config = sites.service_config(service) | {"timeout-s": 1.0}
            if service.site == "remote":
                host, port = sites.leaf_addresses["remote", "local"]
                config |= {"measures": ["local"], "leafs": {"local": f"{host}:{port}"}}
            processes[service.site] = ServiceProcess(service.role, service.name, config, tmp_path / service.site, {})
            await processes[service.site].spawn()
    for process in processes.values():
        await process.wait_ready(DEADLINE_S)
    yield processes
    for process in processes.values():
        assert await process.stop(DEADLINE_S) == 0, process.log_end()


@pytest.mark.e2e
async def test_the_link_is_estimated_where_it_ends_and_forgotten_when_it_is_cut(
    sites: RunningSites, probes: dict[str, ServiceProcess]
) -> None:
    heard: asyncio.Queue[tuple[str, LinkEstimate | None]] = asyncio.Queue()
    bus = await ControlBus.connect(sites.endpoint("local", "ctl"), "scheduler")
    watching = asyncio.create_task(
        watch(bus, subjects.links_bucket("local"), LinkEstimate, lambda key, value: heard.put_nowait((key, value)), ttl_s=2.0)
    )
    async with asyncio.timeout(DEADLINE_S):
        key, estimate = await heard.get()
        assert estimate is not None
        assert (key, estimate.source, estimate.destination) == ("remote.local", "remote", "local")
        assert estimate.rtt_s >= 0.020, "no reply is faster than the link's delay"
        assert estimate.goodput_bytes_per_s > 0
        assert estimate.samples >= 1
        assert estimate.jitter_s >= 0 and 0 < estimate.confidence <= 1 and estimate.age_s >= 0
        while estimate is None or estimate.retransmit_share is None:  # from the second look at the leaf connections on
            _, estimate = await heard.get()
        assert 0 <= estimate.retransmit_share <= 1
        remote = await ControlBus.connect(sites.endpoint("remote", "ctl"), "prefill-worker")
        await remote.publish(subjects.probe_transfers("remote"), TransferMeasured(destination="local", goodput_bytes_per_s=1e15))
        while estimate is None or estimate.goodput_bytes_per_s < 1e15:
            _, estimate = await heard.get()
        await remote.drain()
        link = sites.links["remote", "local"]
        await link.change(LinkChange(state=LinkState.CUT))
        while (await heard.get())[1] is not None:
            continue
        await link.change(LinkChange(state=LinkState.UP))
        key, estimate = await heard.get()
        assert estimate is not None
    watching.cancel()
    await asyncio.wait([watching])
    await bus.drain()
