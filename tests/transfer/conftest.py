from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from prfaas.bus.bulk import BulkLane, ensure_kv_bucket
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.contracts import subjects
from prfaas.site.sites import Description, Link, Site, SiteKind
from prfaas.stack.nats_server import NatsServer
from prfaas.stack.running_sites import RunningSites
from prfaas.wan.process import WanProcess

SITE = "test"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with NatsServer(tmp_path / "nats") as running:
        yield running


@pytest.fixture
async def lane(server: NatsServer) -> AsyncIterator[BulkLane]:
    """Connected, and the bucket of SITE is there."""
    connected = await BulkLane.connect(NatsEndpoint(url=server.client_url), name="test", timeout_s=60)
    await ensure_kv_bucket(connected, subjects.kv_bucket(SITE, SITE), max_bytes=1 << 30, ttl_s=60)
    yield connected
    await connected.close()


class TwoSites(NamedTuple):
    far: NatsServer
    near: NatsServer
    wan: WanProcess
    sites: RunningSites
    far_lane: BulkLane
    near_lane: BulkLane


@pytest.fixture
async def two_sites(tmp_path: Path) -> AsyncIterator[TwoSites]:
    """Site `far` dials site SITE over an emulated link: 200 Mbit/s, 20 ms. The bucket of SITE is on file storage."""
    description = Description(
        model="none",
        sites=(Site(name=SITE, kind=SiteKind.PD), Site(name="far", kind=SiteKind.PRFAAS, dials=(SITE,))),
        links=(Link(between=("far", SITE), rate_mbit=200, rtt_ms=20),),
    )
    async with RunningSites(description, tmp_path) as sites:
        near_lane = await BulkLane.connect(sites.endpoint(SITE, "bulk"), name="near", timeout_s=60)
        await ensure_kv_bucket(near_lane, subjects.kv_bucket(SITE, "far"), max_bytes=1 << 30, ttl_s=60, storage="file")
        far_lane = await BulkLane.connect(sites.endpoint("far", "bulk"), name="far", timeout_s=60)
        yield TwoSites(sites.servers["far"], sites.servers[SITE], sites.links["far", SITE], sites, far_lane, near_lane)
        await far_lane.close()
        await near_lane.close()
