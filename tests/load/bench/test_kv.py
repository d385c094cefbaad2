"""The benchmark's own machinery, on a few megabytes."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from load.bench.kv.control import ControlPings
from load.bench.kv.methods import BUCKET, FAR, METHODS, SITE, Job
from load.bench.kv.report import Summary
from load.bench.kv.run import measure
from load.bench.kv.sites import two_sites
from prfaas.bus.bulk import BulkLane, ensure_kv_bucket
from prfaas.bus.bulk.bucket import api, stream_name
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.stack.nats_server import NatsServer


@pytest.fixture
async def lane(tmp_path: Path) -> AsyncIterator[BulkLane]:
    async with NatsServer(tmp_path / "nats") as server:
        lane = await BulkLane.connect(NatsEndpoint(url=server.client_url), name="test", timeout_s=60)
        await ensure_kv_bucket(lane, BUCKET, max_bytes=64 << 20, ttl_s=60)
        yield lane
        await lane.close()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
async def test_every_method_moves_the_bytes_and_leaves_nothing_behind(lane: BulkLane, method: str) -> None:
    job = Job(total_bytes=4 << 20, send_endpoint=lane.endpoint, receive_endpoint=lane.endpoint, warm_bytes=1 << 20)
    measured = await asyncio.to_thread(measure, method, job)
    assert measured.mib_per_s > 0
    assert 0 <= measured.first_byte_s <= measured.seconds
    state = (await api(lane, f"STREAM.INFO.{stream_name(BUCKET)}"))["state"]
    assert state["bytes"] < 1000  # nats-py leaves a marker of what it deleted


def test_the_summary_has_the_figures_that_are_asked_for() -> None:
    wanted = {"loopback_vs_object_store", "loopback_vs_raw_tcp", "link_vs_raw_tcp", "control_p99_ratio"}
    assert wanted <= set(Summary.__struct_fields__)


@pytest.mark.slow
async def test_control_pings_between_two_sites_are_answered(tmp_path: Path) -> None:
    async with two_sites(tmp_path, rate_mbit=None, rtt_ms=0.0) as sites:
        pings = ControlPings(sites.endpoint(SITE, "ctl"), sites.endpoint(FAR, "ctl"), SITE)
        await asyncio.to_thread(pings.start)
        await asyncio.sleep(2.0)  # a ping every 10 ms
        times = await asyncio.to_thread(pings.stop)
        assert times and all(took_s > 0 for _, took_s in times)
