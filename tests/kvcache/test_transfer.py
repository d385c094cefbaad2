"""A transfer from a writer to a reader over a real nats-server."""

import asyncio

import nats
import pytest

from infra.nats_server import NatsServer
from prfaas.bus.bulk import BulkLane
from prfaas.bus.bulk.bucket import api
from prfaas.contracts.kv import KVTransfer
from prfaas.kvcache.errors import TransferCode, TransferError
from prfaas.kvcache.layout import KVPiece
from prfaas.kvcache.link import Link
from prfaas.kvcache.reader import KVReader
from prfaas.kvcache.writer import KVWriter
from tests.kvcache.kv import LAYOUT, Cache, make_pieces, make_transfer


def put_all(writer: KVWriter, pieces: list[KVPiece]) -> None:
    for piece in pieces:
        writer.put(piece)


async def send(lane: BulkLane, transfer: KVTransfer, pieces: list[KVPiece], link: Link | None = None) -> None:
    writer = await KVWriter.open(lane, transfer, LAYOUT, deadline_s=20, link=link or Link())
    await asyncio.to_thread(put_all, writer, pieces)
    await writer.close()


async def bucket_messages(lane: BulkLane) -> int:
    return int((await api(lane, "STREAM.INFO.OBJ_kv-test"))["state"]["messages"])


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 512, 513, 8000])
async def test_what_arrives_is_what_was_sent(lane: BulkLane, tokens: int) -> None:
    transfer, pieces, cache = make_transfer(tokens), make_pieces(LAYOUT, tokens), Cache()
    reader = await KVReader.open(lane, transfer, LAYOUT, cache.install, deadline_s=20)
    await send(lane, transfer, pieces)
    report = await reader.verified(10)
    await reader.close()
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
    reader = await KVReader.open(lane, transfer, LAYOUT, cache.install, deadline_s=20)
    await reader.verified(10)
    await reader.close()
    assert cache == Cache.of(pieces)


async def test_a_wrong_fingerprint_is_refused_before_any_byte(lane: BulkLane) -> None:
    transfer = make_transfer(600)
    other = KVTransfer(**{name: getattr(transfer, name) for name in transfer.__struct_fields__} | {"fingerprint": "other"})
    cache = Cache()
    reader = await KVReader.open(lane, transfer, LAYOUT, cache.install, deadline_s=20)
    await send(lane, other, make_pieces(LAYOUT, 600))
    with pytest.raises(TransferError) as caught:
        await reader.verified(10)
    assert caught.value.code is TransferCode.FINGERPRINT
    assert not cache.keys
    await reader.close()


async def test_an_abort_reaches_the_reader(lane: BulkLane) -> None:
    transfer, cache = make_transfer(600), Cache()
    reader = await KVReader.open(lane, transfer, LAYOUT, cache.install, deadline_s=20)
    writer = await KVWriter.open(lane, transfer, LAYOUT, deadline_s=20, link=Link())
    await asyncio.to_thread(put_all, writer, make_pieces(LAYOUT, 600)[:2])
    async with asyncio.timeout(10):
        while not writer.stored_frames:
            await bucket_messages(lane)
    await writer.abort("the engine failed")
    with pytest.raises(TransferError, match="the engine failed") as caught:
        await reader.verified(10)
    assert caught.value.code is TransferCode.ABORTED
    await reader.close()


async def test_a_second_writer_of_the_same_attempt_is_refused(lane: BulkLane) -> None:
    transfer = make_transfer(600)
    await send(lane, transfer, make_pieces(LAYOUT, 600))
    with pytest.raises(TransferError, match="another writer") as caught:
        await send(lane, transfer, make_pieces(LAYOUT, 600))
    assert caught.value.code is TransferCode.BROKER
