"""Sealed frames: what is opened is what was sealed, at its place and of its attempt; anything else is a FrameError."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.contracts.codes import FailureCode
from prfaas.contracts.kv import KVTransfer
from prfaas.kvcache.layout import LayerRange
from prfaas.transfer import receiver_events as events
from prfaas.transfer.frame import ABORT_POSITION, HEADER_BYTES, Codec, FrameError, FrameHead, FrameKind, transfer_hash
from prfaas.transfer.receiver_core import ReceiverCore, ReceiverState
from prfaas.transfer.sealed_frame import PlainFrames, SealedFrames, frames_of
from tests.kvcache.kv import LAYOUT, Cache, encode_transfer, make_pieces, make_transfer

SECRET = bytes(range(32))
TRANSFER = make_transfer(200, attempt=2)
PIECES = make_pieces(LAYOUT, 200)


def sealed(transfer: KVTransfer = TRANSFER, secret: bytes = SECRET, seed: int = 0) -> list[bytes]:
    """All messages of an attempt."""
    pieces = make_pieces(LAYOUT, transfer.prefill_tokens, seed=seed)
    return encode_transfer(transfer, LAYOUT, pieces, 20_000, SealedFrames(transfer, secret))


def changed(transfer: KVTransfer, **fields: Any) -> KVTransfer:
    return msgspec.structs.replace(transfer, **fields)


def received(messages: list[bytes], transfer: KVTransfer = TRANSFER, secret: bytes = SECRET) -> tuple[str, Cache]:
    """Returns how a receiver ends that reads these messages again and again, and what it installed."""
    core = ReceiverCore(transfer, LAYOUT, now_s=0.0, deadline_at=1.0, idle_timeout_s=None)
    frames, cache = frames_of(transfer, secret), Cache()
    read_from = 0
    while read_from < len(messages):
        try:
            event: events.ReceiverEvent = events.FrameArrived(frames.decode(memoryview(messages[read_from])), read_from + 1, 0.0)
        except FrameError as error:
            event = events.FrameDamaged(str(error), 0.0)
        read_from += 1
        for instruction in core.handle(event):
            match instruction:
                case events.Install(piece):
                    cache.install(piece)
                case events.Rewind(sequence):
                    read_from = max(sequence, 1) - 1
                case events.Failed(code, _):
                    return str(code), cache
                case events.Verified():
                    return "verified", cache
    (out,) = core.handle(events.Tick(1.0))
    assert isinstance(out, events.Failed) and core.state is ReceiverState.FAILED
    return str(out.code), cache


@given(
    st.sampled_from(FrameKind),
    st.sampled_from(Codec),
    st.lists(st.binary(max_size=300), max_size=3),
    st.lists(st.integers(0, 2**32 - 1), min_size=6, max_size=6),
)
def test_what_was_sealed_opens(kind: FrameKind, codec: Codec, parts: list[bytes], numbers: list[int]) -> None:
    position, layer, start, end, offset, raw = numbers
    size = sum(len(part) for part in parts)
    head = FrameHead(kind, codec, 2, position, LayerRange(layer, start, end), offset, size, raw, 7)
    frame = SealedFrames(TRANSFER, SECRET).encode(head, tuple(memoryview(part) for part in parts))
    message = b"".join(frame.buffers)
    assert len(message) == frame.total_bytes == HEADER_BYTES + size
    for given_as in (memoryview(message), memoryview(bytearray(message))):
        opened = SealedFrames(TRANSFER, SECRET).decode(given_as)
        assert (opened.head, bytes(opened.payload), opened.digest) == (head, b"".join(parts), frame.digest)


@given(st.data())
def test_no_bit_can_be_changed_and_no_byte_left_out_or_added(data: st.DataObject) -> None:
    message = bytearray(data.draw(st.sampled_from(sealed())))
    fault = data.draw(st.sampled_from(["flip", "cut", "longer"]))
    match fault:
        case "flip":
            bit = data.draw(st.integers(0, 8 * len(message) - 1))
            message[bit // 8] ^= 1 << bit % 8
        case "cut":
            del message[data.draw(st.integers(0, len(message) - 1)) :]
        case "longer":
            message += data.draw(st.binary(min_size=1, max_size=70))
    with pytest.raises(FrameError):
        SealedFrames(TRANSFER, SECRET).decode(memoryview(message))


def test_a_tap_sees_size_and_number_and_nothing_of_what_is_sent() -> None:
    plain = encode_transfer(TRANSFER, LAYOUT, PIECES, 20_000)
    messages = sealed()
    assert [len(message) for message in messages] == [len(message) for message in plain]
    named = transfer_hash(TRANSFER.transfer_id).to_bytes(8, "little")
    for number, (message, open_message) in enumerate(zip(messages, plain, strict=True)):
        assert message[:4] == b"PKS1" and message[12:16] == number.to_bytes(4, "little")
        assert named in open_message and named not in message
        payload = open_message[HEADER_BYTES:]
        assert not any(payload[at : at + 16] in message for at in range(0, len(payload) - 16, 16))


def test_the_same_bytes_never_look_the_same_twice() -> None:
    first, second = sealed(), sealed()
    assert not set(first) & set(second)
    assert received(first) == received(second) == ("verified", Cache.of(PIECES))


@pytest.mark.parametrize(
    "fields",
    [
        {"attempt": 1},
        {"transfer_id": "other"},
        {"nuid": "0" * 22},
        {"bucket": "kv-other"},
        {"fingerprint": "other"},
        {"prefill_tokens": 201},
        {"from_token": 1},
        {"lossy": True},
    ],
)
def test_frames_of_another_attempt_transfer_or_object_do_not_open(fields: dict[str, Any]) -> None:
    other = changed(TRANSFER, **fields)
    code, cache = received(sealed(other))
    assert code == FailureCode.CORRUPT
    assert cache == Cache()


def test_a_whole_object_replayed_under_the_name_of_the_next_attempt_fails() -> None:
    """The next attempt has a secret of its own too."""
    again = changed(TRANSFER, attempt=3, nuid="1" * 22)
    assert received(sealed(), again, bytes(32)) == (FailureCode.CORRUPT, Cache())


@pytest.mark.parametrize("secret", [bytes(32), None])
def test_frames_in_clear_or_of_another_secret_are_refused(secret: bytes | None) -> None:
    messages = encode_transfer(TRANSFER, LAYOUT, PIECES, 20_000, frames_of(TRANSFER, secret))
    assert received(messages)[0] == FailureCode.CORRUPT


def test_a_sealed_frame_is_none_to_a_receiver_without_the_secret() -> None:
    with pytest.raises(FrameError):
        PlainFrames().decode(memoryview(sealed()[0]))


@pytest.mark.parametrize("order", ["swapped", "left out", "repeated in place"])
def test_frames_out_of_order_fail_as_a_bad_checksum_does(order: str) -> None:
    messages = sealed()
    match order:
        case "swapped":
            messages[2], messages[3] = messages[3], messages[2]
        case "left out":
            del messages[2]
        case "repeated in place":
            messages[3] = messages[2]
    assert received(messages)[0] == FailureCode.CORRUPT


def test_a_frame_that_comes_once_more_is_dropped() -> None:
    messages = sealed()
    assert received([*messages[:3], messages[1], *messages[3:]]) == ("verified", Cache.of(PIECES))


def test_an_object_without_its_end_is_not_complete() -> None:
    assert received(sealed()[:-1])[0] == FailureCode.TIMEOUT


def test_frames_of_two_senders_are_not_mixed() -> None:
    """A broker can hand one job to two workers: both know the secret."""
    first, second = sealed(), sealed()
    assert received([*first[:2], *second[2:]])[0] == FailureCode.CORRUPT


def test_no_position_is_sealed_twice() -> None:
    frames = SealedFrames(TRANSFER, SECRET)
    head = FrameHead(FrameKind.ABORT, Codec.RAW, 2, ABORT_POSITION, LayerRange(0, 0, 0), 0, 1, 0, 7)
    frames.encode(head, (memoryview(b"a"),))
    with pytest.raises(RuntimeError, match="sealed before"):
        frames.encode(head, (memoryview(b"b"),))
