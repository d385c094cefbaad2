import asyncio
from collections.abc import Callable

from prfaas.bus.bulk import BulkLane
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.kvcache.layout import KVPiece
from prfaas.link.link import Link
from prfaas.stack.nats_server import NatsServer
from prfaas.transfer.bucket_keeper import KVBucketKeeper
from prfaas.transfer.receiver import KVReceiver
from prfaas.transfer.send_options import SendOptions
from prfaas.transfer.sender import KVSender
from tests.kvcache.kv import LAYOUT, Cache, make_pieces, make_transfer


def keeper_of(lane: BulkLane, grace_s: float = 0.0) -> KVBucketKeeper:
    return KVBucketKeeper(lane, "kv-test", max_bytes=1 << 30, ttl_s=60, grace_s=grace_s, interval_s=0.1)


def putter(sender: KVSender, pieces: list[KVPiece]) -> Callable[[], None]:
    def put() -> None:
        for piece in pieces:
            sender.put(piece)

    return put


async def write(lane: BulkLane, tokens: int = 600) -> None:
    sender = KVSender(lane, make_transfer(tokens), LAYOUT, Link(), SendOptions(timeout_s=60)).open()
    await asyncio.to_thread(putter(sender, make_pieces(LAYOUT, tokens)))
    sender.finish()
    await sender.close()


async def test_what_nobody_reads_is_purged_after_its_grace(lane: BulkLane) -> None:
    await write(lane)
    patient, strict = keeper_of(lane, grace_s=100), keeper_of(lane)
    assert await patient.sweep() == 0
    assert patient.stored_bytes > 0
    assert await strict.sweep() > 0
    assert strict.stored_bytes == strict.leaked_bytes == 0


async def test_what_is_being_read_stays(lane: BulkLane) -> None:
    transfer, cache, keeper = make_transfer(600), Cache(), keeper_of(lane)
    pieces = make_pieces(LAYOUT, 600)
    receiver = await KVReceiver(lane, transfer, LAYOUT, cache.install, timeout_s=60).open()
    sender = KVSender(lane, transfer, LAYOUT, Link(), SendOptions(timeout_s=60)).open()
    await asyncio.to_thread(putter(sender, pieces[:2]))
    assert await keeper.sweep() == 0
    await asyncio.to_thread(putter(sender, pieces[2:]))
    sender.finish()
    await sender.close()
    await receiver.verified(60)
    assert await keeper.sweep() == 0
    assert keeper.stored_bytes > 0
    await receiver.close()
    assert await keeper.sweep() == 0
    assert keeper.stored_bytes == 0
    assert cache == Cache.of(pieces)


async def test_frames_that_come_after_the_reader_has_gone_are_purged(lane: BulkLane) -> None:
    transfer, keeper = make_transfer(600), keeper_of(lane)
    receiver = await KVReceiver(lane, transfer, LAYOUT, Cache().install, timeout_s=60).open()
    sender = KVSender(lane, transfer, LAYOUT, Link(), SendOptions(timeout_s=60)).open()
    await receiver.close()
    await asyncio.to_thread(putter(sender, make_pieces(LAYOUT, 600)))
    sender.finish()
    await sender.close()
    assert await keeper.sweep() > 0
    assert keeper.stored_bytes == 0


async def test_a_memory_bucket_is_created_again_after_its_server_died(lane: BulkLane, server: NatsServer) -> None:
    keeper = keeper_of(lane)
    running = asyncio.create_task(keeper.run())
    server.kill()
    await server.start()
    other = await BulkLane.connect(NatsEndpoint(url=server.client_url), name="other", timeout_s=60)
    async with asyncio.timeout(60):
        while not await _has_bucket(other):
            pass
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await write(other)
    await other.close()


async def _has_bucket(lane: BulkLane) -> bool:
    return (await lane.request("$JS.API.STREAM.INFO.OBJ_kv-test", timeout_s=60)).payload.tobytes().find(b'"error"') < 0
