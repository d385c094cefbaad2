"""A small hybrid layout, transfers and deterministic KV for the tests of this folder."""

import random
import secrets
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from prfaas.contracts import subjects
from prfaas.contracts.kv import KVTransfer
from prfaas.kvcache.layout import KVLayout, KVPiece, LayerKind, LayerRange, LayerSpec
from prfaas.transfer import frame as kv
from prfaas.transfer.sealed_frame import FrameFormat, PlainFrames

LAYOUT = KVLayout(
    dtype="bfloat16",
    layers=(
        LayerSpec(kind=LayerKind.SLIDING, kv_heads=1, head_dim=32, window_tokens=64),
        LayerSpec(kind=LayerKind.FULL, kv_heads=2, head_dim=32),
        LayerSpec(kind=LayerKind.RECURRENT, state_bytes=100_000),
        LayerSpec(kind=LayerKind.FULL, kv_heads=1, head_dim=96, value_dim=32),
    ),
)


def make_transfer(
    prefill_tokens: int, *, attempt: int = 1, from_token: int = 0, prefill_site: str = "test", fingerprint: str = "f"
) -> KVTransfer:
    return KVTransfer(
        transfer_id=secrets.token_hex(8),
        attempt=attempt,
        bucket=subjects.kv_bucket("test", prefill_site),
        nuid=secrets.token_hex(11),
        prefill_tokens=prefill_tokens,
        from_token=from_token,
        fingerprint=fingerprint,
    )


def make_piece(layout: KVLayout, piece: LayerRange, seed: int = 0) -> KVPiece:
    return layout.piece(piece, memoryview(random.Random(hash((seed, *piece))).randbytes(layout.range_bytes(piece))))


def gaussian_piece(layout: KVLayout, piece: LayerRange, seed: int = 0) -> KVPiece:
    """bfloat16 numbers of a kind that a codec can shrink, as real KV."""
    count = layout.range_bytes(piece) // 2
    numbers = np.random.default_rng((seed, *piece)).standard_normal(count).astype(np.float32)
    return layout.piece(piece, memoryview((numbers.view(np.uint32) >> 16).astype(np.uint16).tobytes()))


def make_pieces(
    layout: KVLayout,
    prefill_tokens: int,
    chunk_tokens: int = 512,
    seed: int = 0,
    make: Callable[[KVLayout, LayerRange, int], KVPiece] = make_piece,
    from_token: int = 0,
) -> list[KVPiece]:
    """Pieces in the order in which an engine computes them."""
    pieces = []
    for start in range(0, prefill_tokens, chunk_tokens):
        end = min(start + chunk_tokens, prefill_tokens)
        pieces += [make(layout, piece, seed) for piece in layout.chunk_ranges(start, end, prefill_tokens, from_token)]
    return pieces


def encode_transfer(
    transfer: KVTransfer, layout: KVLayout, pieces: list[KVPiece], max_payload_bytes: int, frame_format: FrameFormat | None = None
) -> list[bytes]:
    """All messages of an attempt, as a writer makes them; in clear unless another format is given."""
    frame_format = frame_format or PlainFrames()
    frames: list[kv.OutgoingFrame] = []

    def add(kind: kv.FrameKind, piece: LayerRange, offset: int, parts: tuple[memoryview, ...], raw_bytes: int) -> None:
        stored = sum(len(part) for part in parts)
        head = kv.FrameHead(
            kind,
            kv.Codec.RAW,
            transfer.attempt,
            len(frames),
            piece,
            offset,
            stored,
            raw_bytes,
            kv.transfer_hash(transfer.transfer_id),
        )
        frames.append(frame_format.encode(head, parts))

    def add_message(kind: kv.FrameKind, message: msgspec.Struct) -> None:
        add(kind, LayerRange(0, 0, 0), 0, (memoryview(msgspec.msgpack.encode(message)),), 0)

    add_message(
        kv.FrameKind.OPEN,
        kv.TransferOpening(
            transfer_id=transfer.transfer_id,
            attempt=transfer.attempt,
            prefill_tokens=transfer.prefill_tokens,
            from_token=transfer.from_token,
            fingerprint=transfer.fingerprint,
            layout=layout,
        ),
    )
    for piece in pieces:
        for part in kv.cut_piece(layout, piece, max_payload_bytes):
            add(kv.FrameKind.DATA, part.range, part.offset, part.parts, part.raw_bytes)
    add_message(
        kv.FrameKind.MANIFEST,
        kv.Manifest(
            frames=len(frames),
            raw_bytes=sum(frame.raw_bytes for frame in frames),
            fingerprint=transfer.fingerprint,
            digest=kv.manifest_digest(frame.digest for frame in frames),
        ),
    )
    return [b"".join(frame.buffers) for frame in frames]


def rewrite(message: bytes, payload: bytes | None = None, **fields: Any) -> bytes:
    """A frame with other contents and a checksum that is right for them."""
    frame = kv.decode_frame(memoryview(message))
    data = bytes(frame.payload) if payload is None else payload
    head = frame.head._replace(stored_bytes=len(data), **fields)
    return b"".join(kv.encode_frame(head, (memoryview(data),)).buffers)


class Cache:
    """The contents of a decode worker's memory: per layer the tokens' keys and values, in order of installation."""

    def __init__(self) -> None:
        self.keys: dict[int, bytearray] = {}
        self.values: dict[int, bytearray] = {}
        self.ends: dict[int, int] = {}

    def install(self, piece: KVPiece) -> None:
        layer, start, end = piece.range
        assert self.ends.get(layer, start) == start, "a range came twice or out of order"
        self.ends[layer] = end
        self.keys.setdefault(layer, bytearray()).extend(piece.keys)
        self.values.setdefault(layer, bytearray()).extend(piece.values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cache) and (self.keys, self.values, self.ends) == (other.keys, other.values, other.ends)

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def of(cls, pieces: list[KVPiece]) -> "Cache":
        cache = cls()
        for piece in pieces:
            cache.install(piece)
        return cache
