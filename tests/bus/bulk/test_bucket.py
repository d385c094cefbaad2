import asyncio
from pathlib import Path

import pytest

from prfaas.bus.bulk.bucket import JetStreamError, ensure_kv_bucket
from prfaas.bus.bulk.lane import BulkLane
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.site.server_ports import ServerPorts
from prfaas.stack.nats_server import NatsServer, plain_config

MIB = 1 << 20
PROCESSES = 8


def with_room_for_one(ports: ServerPorts, store: Path) -> str:
    return plain_config(ports, store).replace("jetstream {", "jetstream { max_mem: 48MB,")


async def test_processes_that_make_one_bucket_at_once_need_its_memory_once(tmp_path: Path) -> None:
    """The server looks for the memory before it looks whether the bucket is there."""
    async with NatsServer(tmp_path, with_room_for_one) as server:
        endpoint = NatsEndpoint(url=server.client_url)
        lanes = [await BulkLane.connect(endpoint, name=f"w{number}", timeout_s=60) for number in range(PROCESSES)]
        for number in range(5):
            bucket = f"kv{number}"
            await asyncio.gather(*(ensure_kv_bucket(lane, bucket, max_bytes=32 * MIB, ttl_s=60.0) for lane in lanes))
            await lanes[0].request(f"$JS.API.STREAM.DELETE.OBJ_{bucket}", timeout_s=60.0)
        for lane in lanes:
            await lane.close()


async def test_a_bucket_without_room_says_so(tmp_path: Path) -> None:
    async with NatsServer(tmp_path, with_room_for_one) as server:
        lane = await BulkLane.connect(NatsEndpoint(url=server.client_url), name="w", timeout_s=60)
        with pytest.raises(JetStreamError, match="insufficient memory"):
            await ensure_kv_bucket(lane, "kv", max_bytes=64 * MIB, ttl_s=60.0)
        await lane.close()
