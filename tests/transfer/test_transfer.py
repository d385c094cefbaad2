"""A transfer from a sender to a receiver over a real nats-server."""

import asyncio

import nats
import pytest

from prfaas.bus.bulk import BulkLane
from prfaas.bus.bulk.bucket import api
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.kv import KVTransfer
from prfaas.kvcache.layout import KVPiece
from prfaas.link.link import Link
from prfaas.stack.nats_server import NatsServer
from prfaas.transfer.errors import TransferError
from prfaas.transfer.receiver import KVReceiver
from prfaas.transfer.send_options import SendOptions
from prfaas.transfer.sender import KVSender
from tests.kvcache.kv import LAYOUT, Cache, make_pieces, make_transfer


def put_all(sender: KVSender, pieces: list[KVPiece]) -> None:
    for piece in pieces:
        sender.put(piece)


async def send(lane: BulkLane, transfer: KVTransfer, pieces: list[KVPiece], link: Link | None = None) -> None:
    sender = KVSender(lane, transfer, LAYOUT, link or Link(), SendOptions(timeout_s=60)).open()
    await asyncio.to_thread(put_all, sender, pieces)
    sender.finish()
    await sender.close()


async def bucket_messages(lane: BulkLane) -> int:
    return int((await api(lane, "STREAM.INFO.OBJ_kv-test"))["state"]["messages"])


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 512, 513, 8000])
async def test_what_arrives_is_what_was_sent(lane: BulkLane, tokens: int) -> None:
    transfer, pieces, cache = make_transfer(tokens), make_pieces(LAYOUT, tokens), Cache()
    receiver = await KVReceiver(lane, transfer, LAYOUT, cache.install, timeout_s=60).open()
    await send(lane, transfer, pieces)
    report = await receiver.verified(60)
    await receiver.close()
    assert cache == Cache.of(pieces)
    assert report.bytes == LAYOUT.total_bytes(tokens)
    assert await bucket_messages(lane) == 0


async def test_nats_py_reads_the_finished_object(lane: BulkLane, server: NatsServer) -> None:
    transfer, pieces = make_transfer(2000), make_pieces(LAYOUT, 2000)
    await send(lane, transfer, pieces)
    client = await nats.connect(server.client_url)
    store = await client.jetstream().object_store(transfer.bucket)
    result = await store.get(transfer.object_name)
    assert len(result.data or b"") == result.info.size
    assert (result.info.size or 0) > LAYOUT.total_bytes(2000)
    await client.close()
    cache = Cache()
    receiver = await KVReceiver(lane, transfer, LAYOUT, cache.install, timeout_s=60).open()
    await receiver.verified(60)
    await receiver.close()
    assert cache == Cache.of(pieces)


async def test_a_wrong_fingerprint_is_refused_before_any_byte(lane: BulkLane) -> None:
    transfer = make_transfer(600)
    other = KVTransfer(**{name: getattr(transfer, name) for name in transfer.__struct_fields__} | {"fingerprint": "other"})
    cache = Cache()
    receiver = await KVReceiver(lane, transfer, LAYOUT, cache.install, timeout_s=60).open()
    await send(lane, other, make_pieces(LAYOUT, 600))
    with pytest.raises(TransferError) as caught:
        await receiver.verified(60)
    assert caught.value.code is FailureCode.FINGERPRINT
    assert not cache.keys
    await receiver.close()


async def test_an_abort_reaches_the_reader(lane: BulkLane) -> None:
    transfer, cache = make_transfer(600), Cache()
    receiver = await KVReceiver(lane, transfer, LAYOUT, cache.install, timeout_s=60).open()
    sender = KVSender(lane, transfer, LAYOUT, Link(), SendOptions(timeout_s=60)).open()
    await asyncio.to_thread(put_all, sender, make_pieces(LAYOUT, 600)[:2])
    async with asyncio.timeout(60):
        while not sender.stored_frames:
            await bucket_messages(lane)
    await sender.abort("the engine failed")
    with pytest.raises(TransferError, match="the engine failed") as caught:
        await receiver.verified(60)
    assert caught.value.code is FailureCode.ABORTED
    await receiver.close()


async def test_a_second_writer_of_the_same_attempt_is_refused(lane: BulkLane) -> None:
    transfer = make_transfer(600)
    await send(lane, transfer, make_pieces(LAYOUT, 600))
    with pytest.raises(TransferError, match="another sender") as caught:
        await send(lane, transfer, make_pieces(LAYOUT, 600))
    assert caught.value.code is FailureCode.BROKER


async def test_an_engine_that_cannot_install_fails_the_transfer_with_its_own_error(lane: BulkLane) -> None:
    installed = []

    def install(piece: KVPiece) -> None:
        installed.append(piece.range)
        raise MemoryError("no room")

    transfer = make_transfer(600)
    receiver = await KVReceiver(lane, transfer, LAYOUT, install, timeout_s=60).open()
    await send(lane, transfer, make_pieces(LAYOUT, 600))
    with pytest.raises(MemoryError, match="no room"):
        await receiver.verified(60)
    await receiver.close()
    assert len(installed) == 1
    assert lane.pool.taken_bytes == 0


async def test_a_piece_that_is_not_what_the_layout_says_is_refused(lane: BulkLane) -> None:
    sender = KVSender(lane, make_transfer(600), LAYOUT, Link(), SendOptions(timeout_s=60)).open()
    piece = make_pieces(LAYOUT, 600)[0]
    with pytest.raises(ValueError, match="bytes came, expected"):
        await asyncio.to_thread(sender.put, piece._replace(keys=piece.keys[:-2]))
    await sender.abort("bad piece")


async def test_put_blocks_at_the_buffers_limit_and_fails_with_the_transfer(lane: BulkLane) -> None:
    """No stream stores the frames: the bucket of this transfer does not exist."""
    transfer = make_transfer(8000, prefill_site="nowhere")
    sender = KVSender(lane, transfer, LAYOUT, Link(), SendOptions(timeout_s=60, buffer_bytes=200_000, idle_timeout_s=0.5)).open()
    with pytest.raises(TransferError) as caught:
        await asyncio.to_thread(put_all, sender, make_pieces(LAYOUT, 8000))
    assert caught.value.code is FailureCode.TIMEOUT
    await sender.abort("dead")


async def test_four_transfers_at_once_share_one_lane_and_link(lane: BulkLane) -> None:
    link = Link()
    transfers = [make_transfer(3000) for _ in range(4)]
    pieces = [make_pieces(LAYOUT, 3000, seed=seed) for seed in range(4)]
    caches = [Cache() for _ in range(4)]
    receivers = [
        await KVReceiver(lane, transfer, LAYOUT, cache.install, timeout_s=60).open()
        for transfer, cache in zip(transfers, caches, strict=True)
    ]
    await asyncio.gather(*(send(lane, transfer, own, link) for transfer, own in zip(transfers, pieces, strict=True)))
    for receiver in receivers:
        await receiver.verified(60)
        await receiver.close()
    assert caches == [Cache.of(own) for own in pieces]
    assert await bucket_messages(lane) == 0
