"""Transfers across a leaf connection and an emulated link, and what they survive."""

import asyncio
from collections.abc import Awaitable, Callable

from prfaas.bus.bulk.bucket import api
from prfaas.kvcache.link import Link
from prfaas.kvcache.reader import KVReader
from prfaas.kvcache.writer import KVWriter
from tests.kvcache.conftest import TwoSites
from tests.kvcache.kv import LAYOUT, Cache, make_pieces, make_transfer

TOKENS = 20_000
"""About 10 MB: most of a second on the link."""


async def ship_with_fault(sites: TwoSites, fault: Callable[[], Awaitable[None]] | None) -> int:
    """Runs `fault` when a part of the frames is stored. Returns how many frames were sent again."""
    transfer, pieces, cache = make_transfer(TOKENS), make_pieces(LAYOUT, TOKENS), Cache()
    reader = await KVReader.open(sites.near_lane, transfer, LAYOUT, cache.install, deadline_s=30)
    writer = await KVWriter.open(sites.far_lane, transfer, LAYOUT, deadline_s=30, link=Link())

    def put_all() -> None:
        for piece in pieces:
            writer.put(piece)

    putting = asyncio.create_task(asyncio.to_thread(put_all))
    if fault is not None:
        async with asyncio.timeout(10):
            while writer.stored_frames < 10:
                await api(sites.near_lane, "INFO")
        await fault()
    await putting
    sent = await writer.close()
    await reader.verified(20)
    await reader.close()
    assert cache == Cache.of(pieces)
    return sent.resent_frames


async def test_frames_cross_the_link_once(two_sites: TwoSites) -> None:
    assert await ship_with_fault(two_sites, None) == 0


async def test_the_link_is_cut_and_comes_back(two_sites: TwoSites) -> None:
    async def cut() -> None:
        await two_sites.wan.cut()
        await two_sites.far.wait_for_leafs(0)
        await two_sites.wan.restore()

    await ship_with_fault(two_sites, cut)


async def test_the_senders_server_is_killed(two_sites: TwoSites) -> None:
    async def restart() -> None:
        two_sites.far.kill()
        await two_sites.far.start()

    await ship_with_fault(two_sites, restart)


async def test_the_receivers_server_is_killed_with_file_storage(two_sites: TwoSites) -> None:
    async def restart() -> None:
        two_sites.near.kill()
        await two_sites.near.start()

    await ship_with_fault(two_sites, restart)
