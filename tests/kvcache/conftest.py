from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from infra.nats_server import NatsServer
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
