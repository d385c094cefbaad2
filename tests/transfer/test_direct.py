"""Small KV from a sender to a receiver's inbox over a real nats-server."""

import asyncio
import secrets
from collections.abc import AsyncIterator

import msgspec
import pytest

from prfaas.bus.bulk import BulkLane
from prfaas.bus.bulk.bucket import api
from prfaas.bus.bulk.wire import Message
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.contracts import subjects
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.kv import KVTransfer
from prfaas.kvcache.layout import KVPiece
from prfaas.link.link import Link
from prfaas.stack.nats_server import NatsServer
from prfaas.transfer.direct_inbox import MAX_DIRECT_BYTES, DirectInbox
from prfaas.transfer.direct_sender import DirectSender
from prfaas.transfer.errors import TransferError
from prfaas.transfer.receiver import KVReceiver
from prfaas.transfer.send_options import SendOptions, SendReport
from prfaas.transfer.sender import KVSender
from tests.kvcache.kv import LAYOUT, Cache, make_pieces, make_transfer
from tests.transfer.conftest import SITE

BUCKET = subjects.kv_bucket(SITE, SITE)
DEADLINE_S = 60.0


@pytest.fixture
async def inbox(lane: BulkLane) -> AsyncIterator[DirectInbox]:
    inbox = DirectInbox(lane, BUCKET)
    yield inbox
    inbox.close()


@pytest.fixture
async def other_lane(server: NatsServer) -> AsyncIterator[BulkLane]:
    """Lane of the prefill worker."""
    connected = await BulkLane.connect(NatsEndpoint(url=server.client_url), name="prefill", timeout_s=60)
    yield connected
    await connected.close()


def direct_transfer(inbox: DirectInbox, tokens: int) -> KVTransfer:
    transfer = msgspec.structs.replace(make_transfer(tokens), direct_inbox=inbox.name)
    assert inbox.reserve(transfer.nuid, LAYOUT.total_bytes(tokens))
    return transfer


def put_all(sender: DirectSender | KVSender, pieces: list[KVPiece]) -> None:
    for piece in pieces:
        sender.put(piece)
    sender.finish(cached_tokens=3)


async def send(
    lane: BulkLane, transfer: KVTransfer, pieces: list[KVPiece], secret: bytes | None = None, timeout_s: float = DEADLINE_S
) -> SendReport:
    options = SendOptions(timeout_s=timeout_s, secret=secret, buffer_bytes=1 << 20)
    sender = DirectSender(lane, transfer, LAYOUT, Link().core, options).open()
    await asyncio.to_thread(put_all, sender, pieces)
    return await sender.close()


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 512, 513, 4000])
@pytest.mark.parametrize("sealed", [False, True])
async def test_what_arrives_is_what_was_sent(
    lane: BulkLane, other_lane: BulkLane, inbox: DirectInbox, tokens: int, sealed: bool
) -> None:
    transfer, pieces, cache = direct_transfer(inbox, tokens), make_pieces(LAYOUT, tokens), Cache()
    secret = secrets.token_bytes(32) if sealed else None
    receiver = KVReceiver(lane, transfer, LAYOUT, cache.install, timeout_s=DEADLINE_S, secret=secret, inbox=inbox)
    await receiver.open()
    sent = await send(other_lane, transfer, pieces, secret)
    report = await receiver.verified(DEADLINE_S)
    await receiver.close()
    assert cache == Cache.of(pieces)
    assert report.bytes == LAYOUT.total_bytes(tokens) == sent.raw_bytes
    assert report.cached_tokens == 3
    assert int((await api(lane, f"STREAM.INFO.OBJ_{BUCKET}"))["state"]["messages"]) == 0
    assert inbox.promised_bytes == 0


async def test_frames_that_come_before_their_receiver_come_again(
    lane: BulkLane, other_lane: BulkLane, inbox: DirectInbox
) -> None:
    transfer, pieces, cache = direct_transfer(inbox, 200), make_pieces(LAYOUT, 200), Cache()
    sending = asyncio.create_task(send(other_lane, transfer, pieces))
    await heard(lane, transfer)
    receiver = await KVReceiver(lane, transfer, LAYOUT, cache.install, timeout_s=DEADLINE_S, inbox=inbox).open()
    assert (await sending).resent_frames > 0
    await receiver.verified(DEADLINE_S)
    await receiver.close()
    assert cache == Cache.of(pieces)


async def heard(lane: BulkLane, transfer: KVTransfer) -> None:
    """Returns when the inbox has had the transfer's first message."""
    came = asyncio.Event()

    def note(message: Message) -> None:
        message.release()
        came.set()

    sid = lane.subscribe(subjects.kv_direct(BUCKET, "*", transfer.nuid), note)
    async with asyncio.timeout(DEADLINE_S):
        await came.wait()
    lane.unsubscribe(sid)
    await api(lane, f"STREAM.INFO.OBJ_{BUCKET}")  # what was delivered with it has been handled then


async def test_a_receiver_that_is_gone_is_not_waited_for(lane: BulkLane, other_lane: BulkLane, inbox: DirectInbox) -> None:
    transfer = direct_transfer(inbox, 200)
    receiver = await KVReceiver(lane, transfer, LAYOUT, Cache().install, timeout_s=DEADLINE_S, inbox=inbox).open()
    await receiver.close()
    with pytest.raises(TransferError, match="has done with the attempt") as caught:
        await send(other_lane, transfer, make_pieces(LAYOUT, 200))
    assert caught.value.code is FailureCode.CANCELLED


@pytest.mark.parametrize("receivers", [True, False])
async def test_a_broken_connection_costs_no_transfer(
    lane: BulkLane, other_lane: BulkLane, inbox: DirectInbox, receivers: bool
) -> None:
    transfer, pieces, cache = direct_transfer(inbox, 700), make_pieces(LAYOUT, 700), Cache()
    receiver = await KVReceiver(lane, transfer, LAYOUT, cache.install, timeout_s=DEADLINE_S, inbox=inbox).open()
    broken = lane if receivers else other_lane
    assert broken._wire is not None
    broken._wire.abort()
    await send(other_lane, transfer, pieces)
    await receiver.verified(DEADLINE_S)
    await receiver.close()
    assert cache == Cache.of(pieces)
    assert broken.reconnects == 1


async def test_a_sender_that_knows_no_inbox_is_read_from_the_object(
    lane: BulkLane, other_lane: BulkLane, inbox: DirectInbox
) -> None:
    transfer, pieces, cache = direct_transfer(inbox, 700), make_pieces(LAYOUT, 700), Cache()
    receiver = await KVReceiver(lane, transfer, LAYOUT, cache.install, timeout_s=DEADLINE_S, inbox=inbox).open()
    sender = KVSender(other_lane, transfer, LAYOUT, Link(), SendOptions(timeout_s=DEADLINE_S)).open()
    await asyncio.to_thread(put_all, sender, pieces)
    receiver.read_object()
    assert inbox.promised_bytes == 0
    await receiver.verified(DEADLINE_S)
    await sender.close()
    await receiver.close()
    assert cache == Cache.of(pieces)


async def test_two_workers_with_one_job_give_the_kv_of_one(lane: BulkLane, other_lane: BulkLane, inbox: DirectInbox) -> None:
    transfer, cache = direct_transfer(inbox, 700), Cache()
    pieces = [make_pieces(LAYOUT, 700, chunk_tokens, seed) for chunk_tokens, seed in ((512, 1), (64, 2))]
    receiver = await KVReceiver(lane, transfer, LAYOUT, cache.install, timeout_s=DEADLINE_S, inbox=inbox).open()
    await asyncio.gather(*(send(other_lane, transfer, each) for each in pieces))
    await receiver.verified(DEADLINE_S)
    await receiver.close()
    assert cache in [Cache.of(each) for each in pieces]


@pytest.mark.parametrize("junk", [b"", b"\x00", b"\xff\xff\xff\xff", b"\x04\x00\x00\x00junk", bytes(200)])
async def test_junk_changes_nothing(lane: BulkLane, other_lane: BulkLane, inbox: DirectInbox, junk: bytes) -> None:
    transfer, pieces, cache = direct_transfer(inbox, 300), make_pieces(LAYOUT, 300), Cache()
    receiver = await KVReceiver(lane, transfer, LAYOUT, cache.install, timeout_s=DEADLINE_S, inbox=inbox).open()
    for nuid in (transfer.nuid, "nobody"):
        other_lane.publish(subjects.kv_direct(BUCKET, inbox.name, nuid), [junk], len(junk))
    await send(other_lane, transfer, pieces)
    await receiver.verified(DEADLINE_S)
    await receiver.close()
    assert cache == Cache.of(pieces)


async def test_a_sender_that_gives_up_says_so(lane: BulkLane, other_lane: BulkLane, inbox: DirectInbox) -> None:
    transfer = direct_transfer(inbox, 300)
    receiver = await KVReceiver(lane, transfer, LAYOUT, Cache().install, timeout_s=DEADLINE_S, inbox=inbox).open()
    sender = DirectSender(other_lane, transfer, LAYOUT, Link().core, SendOptions(timeout_s=DEADLINE_S)).open()
    await sender.abort("the engine broke")
    with pytest.raises(TransferError, match="the engine broke") as caught:
        await receiver.verified(DEADLINE_S)
    assert caught.value.code is FailureCode.ABORTED
    await receiver.close()


async def test_without_a_receiver_it_fails_at_its_deadline(other_lane: BulkLane, inbox: DirectInbox) -> None:
    transfer = direct_transfer(inbox, 300)
    with pytest.raises(TransferError) as caught:
        await send(other_lane, transfer, make_pieces(LAYOUT, 300), timeout_s=0.5)
    assert caught.value.code is FailureCode.TIMEOUT


async def test_kv_that_cannot_be_installed_fails_the_transfer_and_tells_the_sender(
    lane: BulkLane, other_lane: BulkLane, inbox: DirectInbox
) -> None:
    transfer = direct_transfer(inbox, 300)

    def install(piece: KVPiece) -> None:
        raise MemoryError("no room")

    receiver = await KVReceiver(lane, transfer, LAYOUT, install, timeout_s=DEADLINE_S, inbox=inbox).open()
    with pytest.raises(TransferError, match="has done with"):
        await send(other_lane, transfer, make_pieces(LAYOUT, 300))
    with pytest.raises(MemoryError):
        await receiver.verified(DEADLINE_S)
    await receiver.close()


async def test_the_inbox_promises_no_more_than_its_bound(lane: BulkLane) -> None:
    inbox = DirectInbox(lane, BUCKET, max_bytes=100)
    assert inbox.reserve("a", 60)
    assert not inbox.reserve("b", 41)
    assert inbox.reserve("c", 40)
    inbox.release("a")
    inbox.release("a")
    assert inbox.promised_bytes == 40
    assert inbox.reserve("d", 60)
    inbox.close()
    assert not DirectInbox(lane, BUCKET).reserve("e", MAX_DIRECT_BYTES + 1)


async def test_an_error_that_nothing_foresaw_ends_the_attempt_at_once(
    other_lane: BulkLane, inbox: DirectInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def publish(*_: object, **__: object) -> None:
        raise RuntimeError("no such thing")

    transfer = direct_transfer(inbox, 300)
    monkeypatch.setattr(other_lane, "publish", publish)
    with pytest.raises(TransferError, match="no such thing") as caught:
        await send(other_lane, transfer, make_pieces(LAYOUT, 300))
    assert caught.value.code is FailureCode.ABORTED


async def test_an_inbox_that_no_process_hears_is_given_up(other_lane: BulkLane, lane: BulkLane) -> None:
    inbox = DirectInbox(lane, BUCKET)
    transfer = direct_transfer(inbox, 300)
    inbox.close()
    with pytest.raises(TransferError, match="no process hears") as caught:
        await send(other_lane, transfer, make_pieces(LAYOUT, 300))
    assert caught.value.code is FailureCode.BROKER


async def test_a_lost_answer_is_asked_for_and_given_after_the_end(
    lane: BulkLane, other_lane: BulkLane, inbox: DirectInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    transfer, pieces, cache = direct_transfer(inbox, 300), make_pieces(LAYOUT, 300), Cache()
    receiver = await KVReceiver(lane, transfer, LAYOUT, cache.install, timeout_s=DEADLINE_S, inbox=inbox).open()
    with monkeypatch.context() as patched:
        patched.setattr(inbox, "answer", lambda nuid, reply: None)
        sending = asyncio.create_task(send(other_lane, transfer, pieces))
        await receiver.verified(DEADLINE_S)
        await receiver.close()
    assert (await sending).resent_frames == 0
    assert cache == Cache.of(pieces)


async def test_the_first_of_several_messages_is_lost(
    lane: BulkLane, other_lane: BulkLane, inbox: DirectInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    transfer, pieces, cache = direct_transfer(inbox, 9000), make_pieces(LAYOUT, 9000), Cache()
    assert LAYOUT.total_bytes(9000) > 2 * other_lane.max_payload
    receiver = await KVReceiver(lane, transfer, LAYOUT, cache.install, timeout_s=DEADLINE_S, inbox=inbox).open()
    publish, published = other_lane.publish, 0

    def lose_first(*arguments: object, **named: object) -> None:
        nonlocal published
        published += 1
        if published > 1:
            publish(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(other_lane, "publish", lose_first)
    assert (await send(other_lane, transfer, pieces)).resent_frames > 0
    await receiver.verified(DEADLINE_S)
    await receiver.close()
    assert cache == Cache.of(pieces)


async def test_one_message_that_cannot_be_handled_ends_no_subscription(
    lane: BulkLane, other_lane: BulkLane, inbox: DirectInbox
) -> None:
    def handle(message: Message) -> None:
        raise RuntimeError("no handler")

    assert inbox.reserve("broken", 1)
    inbox.take("broken", handle)
    other_lane.publish(subjects.kv_direct(BUCKET, inbox.name, "broken"), [b"x"], 1)
    transfer, pieces, cache = direct_transfer(inbox, 300), make_pieces(LAYOUT, 300), Cache()
    receiver = await KVReceiver(lane, transfer, LAYOUT, cache.install, timeout_s=DEADLINE_S, inbox=inbox).open()
    await send(other_lane, transfer, pieces)
    await receiver.verified(DEADLINE_S)
    await receiver.close()
    assert cache == Cache.of(pieces)


async def test_an_inbox_that_failed_is_not_offered_for_a_while(inbox: DirectInbox) -> None:
    inbox.server_error('permissions violation for subscription to "prfaas.other.direct.x"')
    assert inbox.reserve("a", 1)
    inbox.server_error(f'permissions violation for subscription to "{subjects.kv_direct(BUCKET, inbox.name, "*")}"')
    assert not inbox.reserve("b", 1)
