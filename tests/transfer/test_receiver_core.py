"""Each thing that a receiver refuses, by itself."""

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from prfaas.contracts.codes import FailureCode
from prfaas.contracts.kv import KVTransfer, TransferReport
from prfaas.kvcache.layout import LayerKind, LayerRange
from prfaas.transfer import frame as kv
from prfaas.transfer.quantize import encode_int8
from prfaas.transfer.receiver_core import ReceiverCore
from prfaas.transfer.receiver_events import (
    DeliveryLost,
    Failed,
    FrameArrived,
    Install,
    ReceiverInstruction,
    Rewind,
    Tick,
    Verified,
)
from tests.kvcache.kv import LAYOUT, Cache, encode_transfer, gaussian_piece, make_pieces, make_transfer, rewrite

TOKENS = 200
PAYLOAD_BYTES = 10_000


def run(transfer: KVTransfer, messages: list[bytes]) -> list[ReceiverInstruction]:
    core = ReceiverCore(transfer, LAYOUT, now_s=0.0, deadline_at=10.0, idle_timeout_s=None)
    out: list[ReceiverInstruction] = []
    for number, message in enumerate(messages):
        out += core.handle(FrameArrived(kv.decode_frame(memoryview(message)), number + 1, 0.0))
        core.validate()
    return out


def attempt(transfer: KVTransfer, seed: int = 0) -> list[bytes]:
    return encode_transfer(transfer, LAYOUT, make_pieces(LAYOUT, TOKENS, 64, seed), PAYLOAD_BYTES)


def failure(out: list[ReceiverInstruction]) -> Failed:
    assert isinstance(out[-1], Failed)
    return out[-1]


def test_the_whole_is_verified() -> None:
    transfer = make_transfer(TOKENS)
    messages = attempt(transfer)
    last = run(transfer, messages)[-1]
    assert isinstance(last, Verified)
    assert last.report.arrival[-1][1] == LAYOUT.total_bytes(TOKENS)
    report = TransferReport(bytes=LAYOUT.total_bytes(TOKENS), frames=len(messages), attempts=1)
    assert replace(last.report, arrival=()) == report


def test_what_had_come_of_a_transfer_that_fails_is_reported() -> None:
    transfer = make_transfer(TOKENS)
    messages = attempt(transfer)
    core = ReceiverCore(transfer, LAYOUT, now_s=0.0, deadline_at=10.0, idle_timeout_s=None)
    assert core.report() == TransferReport(attempts=1)
    came = 0
    for number, message in enumerate(messages[:4]):
        frame = kv.decode_frame(memoryview(message))
        core.handle(FrameArrived(frame, number + 1, 1.0 + number))
        came += len(frame.payload) if frame.head.kind is kv.FrameKind.DATA else 0
    forged = rewrite(messages[4], range=LayerRange(99, 0, 1))
    assert isinstance(core.handle(FrameArrived(kv.decode_frame(memoryview(forged)), 5, 9.0))[-1], Failed)
    assert [after_s for after_s, _ in core.report().arrival] == [0.0, 1.0, 2.0, 3.0]
    assert core.report().arrival[-1][1] == came
    assert replace(core.report(), arrival=()) == TransferReport(bytes=came, frames=4, attempts=1, duration_s=3.0)
    assert came > 0


def test_a_frame_exchanged_for_one_of_other_bytes_fails_the_whole() -> None:
    """Its own checksum is right; only the manifest's digest over all frames knows."""
    transfer = make_transfer(TOKENS)
    messages = attempt(transfer)
    messages[1] = attempt(transfer, seed=1)[1]
    assert failure(run(transfer, messages)).code is FailureCode.CORRUPT
    assert "does not match its manifest" in failure(run(transfer, messages)).message


def test_a_manifest_before_the_end_is_refused() -> None:
    transfer = make_transfer(TOKENS)
    messages = attempt(transfer)
    early = [*messages[:-2], rewrite(messages[-1], position=len(messages) - 2)]
    assert "are not complete" in failure(run(transfer, early)).message


def test_a_gap_is_read_again_and_given_up_in_the_end() -> None:
    transfer = make_transfer(TOKENS)
    messages = attempt(transfer)
    out = run(transfer, [messages[0], *messages[2:]])
    assert out[:3] == [Rewind(2)] * 3
    assert failure(out).code is FailureCode.CORRUPT


@pytest.mark.parametrize(
    ("position", "fields", "text"),
    [
        (1, {"range": LayerRange(99, 0, 1)}, "layer 99"),
        (1, {"range": LayerRange(0, 0, 4)}, "comes next"),
        (0, {"kind": kv.FrameKind.DATA}, "kind DATA at position 0"),
        (1, {"kind": kv.FrameKind.OPEN}, "kind OPEN at position 1"),
    ],
)
def test_a_frame_that_does_not_belong_is_refused(position: int, fields: dict[str, Any], text: str) -> None:
    transfer = make_transfer(TOKENS)
    messages = attempt(transfer)
    messages[position] = rewrite(messages[position], **fields)
    failed = failure(run(transfer, messages))
    assert failed.code is FailureCode.CORRUPT
    assert text in failed.message


def test_a_payload_of_the_wrong_size_is_refused() -> None:
    transfer = make_transfer(TOKENS)
    messages = attempt(transfer)
    messages[1] = rewrite(messages[1], payload=bytes(kv.decode_frame(memoryview(messages[1])).payload)[:-2])
    assert "and says" in failure(run(transfer, messages)).message


@pytest.mark.parametrize("change", [{"fingerprint": "other"}, {"layout": msgspec.structs.replace(LAYOUT, dtype="float16")}])
def test_another_model_is_refused_before_any_byte(change: dict[str, object]) -> None:
    transfer = make_transfer(TOKENS)
    messages = attempt(transfer)
    opening = msgspec.msgpack.decode(kv.decode_frame(memoryview(messages[0])).payload, type=kv.TransferOpening)
    messages[0] = rewrite(messages[0], payload=msgspec.msgpack.encode(msgspec.structs.replace(opening, **change)))
    out = run(transfer, messages)
    assert failure(out).code is FailureCode.FINGERPRINT
    assert not any(isinstance(instruction, Install) for instruction in out)


def test_a_transfer_may_begin_after_a_prefix() -> None:
    """The window and the state come whole, the full layers from there on."""
    transfer = make_transfer(TOKENS, from_token=128)
    pieces = make_pieces(LAYOUT, TOKENS, 64, from_token=128)
    out = run(transfer, encode_transfer(transfer, LAYOUT, pieces, PAYLOAD_BYTES))
    assert isinstance(out[-1], Verified)
    report, whole = out[-1].report, LAYOUT.total_bytes(TOKENS)
    assert report.bytes == LAYOUT.total_bytes(TOKENS, 128) == whole - report.saved_bytes < whole
    assert report.reused_tokens == 128
    firsts: dict[int, int] = {}
    for order in out:
        if isinstance(order, Install):
            firsts.setdefault(order.piece.range.layer, order.piece.range.start)
    assert firsts == {0: TOKENS - 63, 1: 128, 2: 0, 3: 128}


def test_frames_from_outside_of_what_was_asked_are_refused() -> None:
    transfer = make_transfer(TOKENS, from_token=128)
    for pieces in (make_pieces(LAYOUT, TOKENS, 64), make_pieces(LAYOUT, TOKENS, 64, from_token=192)):
        messages = encode_transfer(transfer, LAYOUT, pieces, PAYLOAD_BYTES)
        assert "where 128 comes next" in failure(run(transfer, messages)).message


def test_both_sides_agree_on_where_it_begins() -> None:
    transfer = make_transfer(TOKENS, from_token=128)
    other = msgspec.structs.replace(transfer, from_token=0)
    failed = failure(run(transfer, encode_transfer(other, LAYOUT, make_pieces(LAYOUT, TOKENS, 64), PAYLOAD_BYTES)))
    assert "of tokens 0 to 200 came" in failed.message and "of 128 to 200" in failed.message


def test_deadlines() -> None:
    transfer = make_transfer(TOKENS)
    core = ReceiverCore(transfer, LAYOUT, now_s=0.0, deadline_at=10.0, idle_timeout_s=2.0)
    assert core.handle(Tick(5.0)) == []  # the job may wait in its queue
    core.handle(FrameArrived(kv.decode_frame(memoryview(attempt(transfer)[0])), 1, 5.0))
    assert failure(core.handle(Tick(7.0))).code is FailureCode.TIMEOUT
    late = ReceiverCore(transfer, LAYOUT, now_s=0.0, deadline_at=10.0, idle_timeout_s=None)
    assert failure(late.handle(Tick(10.0))).code is FailureCode.TIMEOUT


def in_8_bits(message: bytes) -> bytes:
    frame = kv.decode_frame(memoryview(message))
    spec = LAYOUT.layers[frame.head.range.layer]
    encoded = encode_int8([frame.payload], LAYOUT.dtype, spec.vector_dim or 1)
    assert encoded is not None
    return rewrite(message, encoded, codec=kv.Codec.INT8)


def lossy_attempt(transfer: KVTransfer) -> list[bytes]:
    """All frames but the states, which stay as they are, in 8 bits, and a manifest that is right for them."""
    pieces = make_pieces(LAYOUT, TOKENS, 64, make=gaussian_piece)
    *messages, manifest = encode_transfer(transfer, LAYOUT, pieces, PAYLOAD_BYTES)
    for number, message in enumerate(messages[1:], 1):
        if LAYOUT.layers[kv.decode_frame(memoryview(message)).head.range.layer].kind is not LayerKind.RECURRENT:
            messages[number] = in_8_bits(message)
    closing = msgspec.msgpack.decode(kv.decode_frame(memoryview(manifest)).payload, type=kv.Manifest)
    digest = kv.manifest_digest(kv.decode_frame(memoryview(message)).digest for message in messages)
    return [*messages, rewrite(manifest, msgspec.msgpack.encode(msgspec.structs.replace(closing, digest=digest)))]


def test_eight_bits_are_refused_where_the_transfer_does_not_allow_them_and_nothing_is_installed() -> None:
    transfer = make_transfer(TOKENS)
    out = run(transfer, lossy_attempt(transfer))
    assert failure(out).code is FailureCode.LOSSY
    assert "`engine.lossy-kv`" in failure(out).message
    assert not any(isinstance(instruction, Install) for instruction in out)


def test_eight_bits_are_installed_where_allowed_always_as_the_same_bytes_and_counted() -> None:
    transfer = msgspec.structs.replace(make_transfer(TOKENS), lossy=True)
    messages = lossy_attempt(transfer)
    caches = []
    for _ in range(2):
        out = run(transfer, messages)
        verified = out[-1]
        assert isinstance(verified, Verified)
        assert 0 < verified.report.lossy_frames < verified.report.frames
        assert verified.report.bytes == LAYOUT.total_bytes(TOKENS)
        caches.append(Cache.of([instruction.piece for instruction in out if isinstance(instruction, Install)]))
    assert caches[0] == caches[1]
    exact = Cache.of(make_pieces(LAYOUT, TOKENS, 64, make=gaussian_piece))
    assert caches[0].ends == exact.ends
    assert caches[0].keys[2] == exact.keys[2], "a recurrent state is exact"
    assert caches[0].keys[1] != exact.keys[1]


def test_a_recurrent_state_in_eight_bits_is_refused() -> None:
    transfer = msgspec.structs.replace(make_transfer(TOKENS), lossy=True)
    messages = attempt(transfer)
    for number, message in enumerate(messages[1:-1], 1):
        if LAYOUT.layers[kv.decode_frame(memoryview(message)).head.range.layer].kind is LayerKind.RECURRENT:
            messages[number] = rewrite(message, codec=kv.Codec.INT8)
    assert failure(run(transfer, messages)).code is FailureCode.CORRUPT
    assert "codec INT8" in failure(run(transfer, messages)).message


DEEP = b"\x82\xa4type\xa1x\xa2zz" + b"\x91" * 100_000 + b"\xc0"


@pytest.mark.parametrize("position", [0, -1])
def test_a_frame_that_nests_too_deeply_fails_its_own_transfer(position: int) -> None:
    """Its checksum is right: any writer of the bucket can make one."""
    transfer = make_transfer(TOKENS)
    messages = attempt(transfer)
    head = kv.decode_frame(memoryview(messages[position])).head._replace(stored_bytes=len(DEEP), raw_bytes=len(DEEP))
    forged = kv.encode_frame(head, (memoryview(DEEP),))
    messages[position] = b"".join(bytes(part) for part in forged.buffers)
    failed = failure(run(transfer, messages))
    assert failed.code is FailureCode.CORRUPT
    assert "does not decode" in failed.message


def test_a_connection_that_breaks_again_and_again_without_a_frame_in_between_is_given_up() -> None:
    transfer = make_transfer(TOKENS)
    messages = attempt(transfer)
    core = ReceiverCore(transfer, LAYOUT, now_s=0.0, deadline_at=10.0, idle_timeout_s=None)
    for number, message in enumerate(messages[:3]):
        for _ in range(60):
            assert core.handle(DeliveryLost(0.0)) == [Rewind(number + 1 if number else 0)]
        core.handle(FrameArrived(kv.decode_frame(memoryview(message)), number + 1, 0.0))
        core.validate()
    losses = 0
    while not core.finished:
        out = core.handle(DeliveryLost(0.0))
        losses += 1
        assert losses < 100
    assert failure(out).code is FailureCode.BROKER
    assert "without a new frame" in failure(out).message
