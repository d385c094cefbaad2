"""The KV wire format: one message is a 64-byte header and a payload.

Everything is in the payload and nothing in NATS headers, so the stored messages, one after another, are an ordinary object.
The checksum (xxh3-128) covers the header's other fields and the payload.
"""

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple

import msgspec
import xxhash

from prfaas.kvcache.layout import KVLayout, KVPiece, LayerKind, LayerRange

HEADER_BYTES = 64
DIGEST_BYTES = 16
ABORT_POSITION = (1 << 32) - 1
"""Position of ABORT frames, which have no place in the order: no other frame of an attempt has it."""
_MAGIC = b"PKV1"
_FIELDS = struct.Struct("<4sBBBxIIIIIIIIQ")
"""Magic, version, kind, codec, attempt, position, layer, start, end, offset, stored bytes, raw bytes, transfer."""
_VERSION = 1
assert _FIELDS.size + DIGEST_BYTES == HEADER_BYTES


class FrameKind(IntEnum):
    OPEN = 1
    """Facts that both sides must agree on before any byte is installed; always at position 0."""
    DATA = 2
    MANIFEST = 3
    """Closes the transfer."""
    ABORT = 4


class Codec(IntEnum):
    RAW = 0
    PLANES = 1
    """Lossless, see codec.py."""
    INT8 = 2
    """Lossy, see quantize.py: only in transfers that allow it."""


class FrameError(ValueError):
    """The bytes are no intact frame."""


class FrameHead(NamedTuple):
    kind: FrameKind
    codec: Codec
    attempt: int
    position: int
    """Place in the transfer, from 0 without gaps."""
    range: LayerRange
    offset: int
    """Byte of the state at which this part begins; 0 in layers that are not recurrent."""
    stored_bytes: int
    """Payload as sent."""
    raw_bytes: int
    """Payload as decoded."""
    transfer_hash: int


class OutgoingFrame(NamedTuple):
    kind: FrameKind
    buffers: tuple[bytes | memoryview, ...]
    """Header and payload, in pieces. The payload of a plain frame still is the engine's own memory."""
    digest: bytes
    """Checksum, or the tag of a sealed frame."""
    total_bytes: int
    """Header and payload."""
    raw_bytes: int


class IncomingFrame(NamedTuple):
    head: FrameHead
    payload: memoryview
    digest: bytes


class TransferOpening(msgspec.Struct, frozen=True, kw_only=True):
    """Payload of the OPEN frame."""

    transfer_id: str
    attempt: int
    prefill_tokens: int
    from_token: int = 0
    fingerprint: str
    layout: KVLayout


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Payload of the MANIFEST frame."""

    frames: int
    """Number of frames before this one."""
    raw_bytes: int
    cached_tokens: int = 0
    """Prompt tokens that the prefill worker took from its cache instead of computing them."""
    fingerprint: str
    digest: bytes
    """xxh3-128 over the checksums of all frames before this one, in order: one value that depends on every byte and its place."""


def transfer_hash(transfer_id: str) -> int:
    return int(xxhash.xxh3_64_intdigest(transfer_id.encode()))


def encode_frame(head: FrameHead, parts: tuple[memoryview, ...]) -> OutgoingFrame:
    fields = _FIELDS.pack(
        _MAGIC,
        _VERSION,
        head.kind,
        head.codec,
        head.attempt,
        head.position,
        head.range.layer,
        head.range.start,
        head.range.end,
        head.offset,
        head.stored_bytes,
        head.raw_bytes,
        head.transfer_hash,
    )
    checksum = xxhash.xxh3_128(fields)
    for part in parts:
        checksum.update(part)
    digest = checksum.digest()
    return OutgoingFrame(head.kind, (fields + digest, *parts), digest, HEADER_BYTES + head.stored_bytes, head.raw_bytes)


def decode_frame(message: memoryview) -> IncomingFrame:
    """The payload is a view into `message`. Raises FrameError for anything that is not exactly what was encoded."""
    if len(message) < HEADER_BYTES:
        raise FrameError(f"a frame has at least {HEADER_BYTES} bytes, but {len(message)} came")
    magic, version, kind, codec, attempt, position, layer, start, end, offset, stored, raw, transfer = _FIELDS.unpack_from(
        message
    )
    if magic != _MAGIC or version != _VERSION:
        raise FrameError(f"expected a frame of version {_VERSION}, but it begins with {bytes(message[:5])!r}")
    digest = bytes(message[_FIELDS.size : HEADER_BYTES])
    checksum = xxhash.xxh3_128(message[: _FIELDS.size])
    checksum.update(message[HEADER_BYTES:])
    if checksum.digest() != digest or len(message) != HEADER_BYTES + stored:
        raise FrameError(f"frame {position} of attempt {attempt} does not match its checksum ({len(message)} bytes)")
    try:
        head = FrameHead(
            FrameKind(kind), Codec(codec), attempt, position, LayerRange(layer, start, end), offset, stored, raw, transfer
        )
    except ValueError as error:
        raise FrameError(f"frame {position} of attempt {attempt}: {error}") from error
    return IncomingFrame(head, message[HEADER_BYTES:], digest)


class FrameSlice(NamedTuple):
    """Part of a piece that one frame carries, before it is encoded."""

    range: LayerRange
    offset: int
    parts: tuple[memoryview, ...]
    raw_bytes: int


def message_slice(payload: bytes) -> FrameSlice:
    """Slice of a frame that carries no KV."""
    return FrameSlice(LayerRange(0, 0, 0), 0, (memoryview(payload),), 0)


def check_piece(layout: KVLayout, piece: KVPiece) -> None:
    """Raises ValueError when the piece is not what `layout` says."""
    layer, start, end = piece.range
    if (piece.keys.nbytes, piece.size_bytes) != (layout.key_bytes(piece.range), layout.range_bytes(piece.range)):
        raise ValueError(
            f"layer {layer}, tokens {start} to {end}: {piece.keys.nbytes} + {piece.values.nbytes} bytes came, "
            f"expected {layout.range_bytes(piece.range)}"
        )


def cut_piece(layout: KVLayout, piece: KVPiece, max_payload_bytes: int) -> Iterator[FrameSlice]:
    """Slices of at most `max_payload_bytes`, in order, without copying. Keys and values of a token stay together.

    Raises ValueError when not even one token fits."""
    layer, start, end = piece.range
    whole = KVPiece(piece.range, piece.keys.cast("B"), piece.values.cast("B"))
    if layout.layers[layer].kind is LayerKind.RECURRENT:
        for offset in range(0, len(whole.keys), max_payload_bytes):
            part = whole.keys[offset : offset + max_payload_bytes]
            yield FrameSlice(piece.range, offset, (part,), len(part))
        return
    token_bytes = layout.token_bytes(layer)
    most = max_payload_bytes // token_bytes
    if most == 0:
        raise ValueError(f"one token of layer {layer} has {token_bytes} bytes and a frame takes {max_payload_bytes}")
    # Even slices: a full frame and a sliver cost more than two halves.
    step = -(-(end - start) // -(-(end - start) // most))
    for first in range(start, end, step):
        tokens = whole.part(first, min(first + step, end))
        yield FrameSlice(tokens.range, 0, (tokens.keys, tokens.values), tokens.size_bytes)


def manifest_digest(frame_digests: Iterable[bytes]) -> bytes:
    whole = xxhash.xxh3_128()
    for digest in frame_digests:
        whole.update(digest)
    return bytes(whole.digest())
