"""A KV bucket whose server dies is made on another server of the cluster, while the dead one is still away."""

import asyncio
from pathlib import Path

import pytest

from prfaas.bus.bulk import BulkLane
from prfaas.bus.bulk.bucket import api, stream_name
from prfaas.bus.bulk.wire import LaneError
from prfaas.site.sites import Description, Server, Site, SiteKind
from prfaas.stack.running_sites import RunningSites
from prfaas.transfer.bucket_keeper import KVBucketKeeper

HOME, BUCKET = "home", "kv-home-home"
DEADLINE_S = 60.0
CLUSTER = Description(model="m", sites=(Site(name=HOME, kind=SiteKind.PD, servers=(Server(),) * 3),))


async def server_of_bucket(lane: BulkLane) -> str:
    """Returns the name of the server that keeps the bucket, once there is one."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                leader: str | None = (await api(lane, f"STREAM.INFO.{stream_name(BUCKET)}", timeout_s=1.0))["cluster"].get(
                    "leader"
                )
                if leader:
                    return leader
            except (LaneError, TimeoutError):
                pass
            await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_the_bucket_is_made_on_another_server_and_kept_when_the_dead_one_is_back(tmp_path: Path) -> None:
    async with RunningSites(CLUSTER, tmp_path) as sites:
        lane = await BulkLane.connect(sites.endpoint(HOME, "bulk"), name="keeper", timeout_s=DEADLINE_S)
        keeper = KVBucketKeeper(lane, BUCKET, max_bytes=1 << 20, ttl_s=60.0)
        sweeping = asyncio.create_task(keeper.run())
        try:
            first = await server_of_bucket(lane)
            sites.servers[first].kill()
            assert (second := await server_of_bucket(lane)) != first
            async with asyncio.timeout(DEADLINE_S):
                while keeper.problem is not None:
                    await asyncio.sleep(0.05)
            lane.publish(f"$O.{BUCKET}.C.object", [b"frame"], 5)
            await sites.servers[first].start()
            await keeper.sweep()
            assert await server_of_bucket(lane) == second
            state = (await api(lane, f"STREAM.INFO.{stream_name(BUCKET)}"))["state"]
            assert state["messages"] == 1
        finally:
            sweeping.cancel()
            await asyncio.wait([sweeping])
            await lane.close()
