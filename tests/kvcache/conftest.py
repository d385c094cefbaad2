from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from infra.nats_server import NatsServer, ServerPorts, plain_config
from infra.wan import LinkShape, WanProxy
from prfaas.bus.bulk import BulkLane, ensure_kv_bucket
from prfaas.bus.endpoint import NatsEndpoint

SITE = "test"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with NatsServer(tmp_path / "nats") as running:
        yield running


@pytest.fixture
async def lane(server: NatsServer) -> AsyncIterator[BulkLane]:
    """Connected, and the bucket of SITE is there."""
    connected = await BulkLane.connect(NatsEndpoint(url=server.client_url), name="test", deadline_s=5)
    await ensure_kv_bucket(connected, SITE, max_bytes=1 << 30, ttl_s=60)
    yield connected
    await connected.close()


class TwoSites(NamedTuple):
    far: NatsServer
    near: NatsServer
    wan: WanProxy
    far_lane: BulkLane
    near_lane: BulkLane


@pytest.fixture
async def two_sites(tmp_path: Path) -> AsyncIterator[TwoSites]:
    """Site `far` dials site SITE over an emulated link: 200 Mbit/s, 20 ms. The bucket of SITE is on file storage."""

    def near_config(ports: ServerPorts, store: Path) -> str:
        return plain_config(ports, store, name="near", domain=SITE)

    async with (
        NatsServer(tmp_path / "near", near_config) as near,
        WanProxy(("127.0.0.1", near.ports.leaf), LinkShape(rate_mbit=200, rtt_ms=20)) as wan,
    ):

        def far_config(ports: ServerPorts, store: Path) -> str:
            remote = f'remotes: [{{ url: "nats://127.0.0.1:{wan.port}", compression: off }}], reconnect: "100ms"'
            plain = plain_config(ports, store, name="far", domain="far")
            return plain.replace("leafnodes {", f"leafnodes {{ {remote},")

        async with NatsServer(tmp_path / "far", far_config) as far:
            await far.wait_for_leafs(1)
            near_lane = await BulkLane.connect(NatsEndpoint(url=near.client_url), name="near", deadline_s=5)
            await ensure_kv_bucket(near_lane, SITE, max_bytes=1 << 30, ttl_s=60, storage="file")
            far_lane = await BulkLane.connect(NatsEndpoint(url=far.client_url), name="far", deadline_s=5)
            yield TwoSites(far, near, wan, far_lane, near_lane)
            await far_lane.close()
            await near_lane.close()
