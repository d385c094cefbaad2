"""Transfers across a leaf connection and an emulated link, and what they survive."""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from prfaas.bus.bulk.bucket import api, stream_name
from prfaas.contracts import subjects
from prfaas.contracts.codes import FailureCode
from prfaas.kvcache.layout import KVPiece
from prfaas.link.link import Link
from prfaas.transfer.bucket_keeper import KVBucketKeeper
from prfaas.transfer.errors import TransferError
from prfaas.transfer.receiver import KVReceiver
from prfaas.transfer.send_options import SendOptions
from prfaas.transfer.sender import KVSender
from prfaas.wan import LinkChange, LinkState
from tests.kvcache.kv import LAYOUT, Cache, gaussian_piece, make_pieces, make_transfer
from tests.transfer.conftest import SITE, TwoSites

TOKENS = 20_000
"""About 10 MB: most of a second on the link."""


def put_all(sender: KVSender, pieces: list[KVPiece]) -> None:
    for piece in pieces:
        sender.put(piece)


async def wait_stored(sites: TwoSites, sender: KVSender) -> None:
    async with asyncio.timeout(60):
        while sender.stored_frames < 10:
            await api(sites.near_lane, "INFO")


async def ship_with_fault(sites: TwoSites, fault: Callable[[], Awaitable[None]] | None) -> int:
    """Runs `fault` when a part of the frames is stored. Returns how many frames were sent again."""
    transfer, pieces, cache = make_transfer(TOKENS, prefill_site="far"), make_pieces(LAYOUT, TOKENS), Cache()
    receiver = await KVReceiver(sites.near_lane, transfer, LAYOUT, cache.install, timeout_s=60).open()
    sender = KVSender(sites.far_lane, transfer, LAYOUT, Link(), SendOptions(timeout_s=60)).open()

    putting = asyncio.create_task(asyncio.to_thread(put_all, sender, pieces))
    if fault is not None:
        await wait_stored(sites, sender)
        await fault()
    await putting
    sender.finish()
    sent = await sender.close()
    await receiver.verified(60)
    await receiver.close()
    assert cache == Cache.of(pieces)
    return sent.resent_frames


async def test_frames_cross_the_link_once(two_sites: TwoSites) -> None:
    assert await ship_with_fault(two_sites, None) == 0


async def test_the_link_is_cut_and_comes_back(two_sites: TwoSites) -> None:
    async def cut() -> None:
        await two_sites.wan.change(LinkChange(state=LinkState.CUT))
        await two_sites.far.wait_for_leafs(0)
        await two_sites.wan.change(LinkChange(state=LinkState.UP))

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


async def test_memory_storage_dies_with_its_server_and_a_new_attempt_works(two_sites: TwoSites) -> None:
    lane = two_sites.near_lane
    await api(lane, f"STREAM.DELETE.{stream_name(subjects.kv_bucket(SITE, 'far'))}")
    keeper = KVBucketKeeper(lane, subjects.kv_bucket(SITE, "far"), max_bytes=1 << 30, ttl_s=60)
    await keeper.start()
    transfer, pieces, cache = make_transfer(TOKENS, prefill_site="far"), make_pieces(LAYOUT, TOKENS), Cache()
    receiver = await KVReceiver(lane, transfer, LAYOUT, cache.install, timeout_s=60).open()
    sender = KVSender(two_sites.far_lane, transfer, LAYOUT, Link(), SendOptions(timeout_s=60)).open()
    putting = asyncio.create_task(asyncio.to_thread(put_all, sender, pieces))
    await wait_stored(two_sites, sender)
    running = asyncio.create_task(keeper.run())
    two_sites.near.kill()
    await two_sites.near.start()
    with pytest.raises(TransferError) as read:
        await receiver.verified(60)
    assert read.value.code is FailureCode.BROKER
    with pytest.raises(TransferError) as written:
        await putting
        sender.finish()
        await sender.close()
    assert written.value.code is FailureCode.BROKER
    await sender.abort("its attempt is dead")
    await receiver.close()
    await ship_with_fault(two_sites, None)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_slow_link_carries_compressed_frames_and_the_same_cache(two_sites: TwoSites) -> None:
    await two_sites.wan.change(LinkChange(rate_mbit=50))
    transfer, cache = make_transfer(TOKENS, prefill_site="far"), Cache()
    pieces = make_pieces(LAYOUT, TOKENS, make=gaussian_piece)
    receiver = await KVReceiver(two_sites.near_lane, transfer, LAYOUT, cache.install, timeout_s=60).open()
    sender = KVSender(two_sites.far_lane, transfer, LAYOUT, Link(), SendOptions(timeout_s=60)).open()
    await asyncio.to_thread(put_all, sender, pieces)
    sender.finish()
    sent = await sender.close()
    got = await receiver.verified(60)
    await receiver.close()
    assert cache == Cache.of(pieces)
    assert sent.raw_bytes == got.bytes == LAYOUT.total_bytes(TOKENS)
    assert sent.bytes < 0.9 * sent.raw_bytes


@pytest.mark.parametrize(("sender_may", "receiver_may"), [(True, True), (True, False), (False, True)])
async def test_a_slow_link_carries_8_bits_only_where_both_ends_allow_it(
    two_sites: TwoSites, sender_may: bool, receiver_may: bool
) -> None:
    await two_sites.wan.change(LinkChange(rate_mbit=50))
    transfer = msgspec.structs.replace(make_transfer(TOKENS, prefill_site="far"), lossy=receiver_may)
    cache, pieces = Cache(), make_pieces(LAYOUT, TOKENS, make=gaussian_piece)
    receiver = await KVReceiver(two_sites.near_lane, transfer, LAYOUT, cache.install, timeout_s=60).open()
    sender = KVSender(two_sites.far_lane, transfer, LAYOUT, Link(), SendOptions(timeout_s=60, lossy=sender_may)).open()
    await asyncio.to_thread(put_all, sender, pieces)
    sender.finish()
    sent = await sender.close()
    got = await receiver.verified(60)
    await receiver.close()
    assert sent.lossy_frames == got.lossy_frames
    assert got.bytes == LAYOUT.total_bytes(TOKENS)
    if sender_may and receiver_may:
        assert 0 < got.lossy_frames < got.frames
        assert cache.ends == Cache.of(pieces).ends
    else:
        assert got.lossy_frames == 0
        assert cache == Cache.of(pieces)
