"""Canonical KV layout: what a model's cache consists of, neutral to block size, parallelism and engine.

Per layer and token range the bytes are keys then values, each [tokens, kv_heads, its width] in `dtype`, C order. A recurrent
layer has one state of fixed size at an exact length instead.
"""

import math
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec


class LayerKind(StrEnum):
    FULL = "full"
    SLIDING = "sliding"
    RECURRENT = "recurrent"


class LayerSpec(msgspec.Struct, frozen=True, kw_only=True):
    kind: LayerKind
    kv_heads: int = 0
    head_dim: int = 0
    """Width of a key, and of a value unless that has a width of its own."""
    value_dim: int = 0
    """Width of a value where it is not a key's; 0: it is."""
    window_tokens: int = 0
    """Length of a sliding window: a token attends to itself and the window_tokens - 1 before it."""
    state_bytes: int = 0
    """Size of the state of a recurrent layer."""

    @property
    def value_width(self) -> int:
        return self.value_dim or self.head_dim

    @property
    def vector_dim(self) -> int:
        """Width of the longest vectors that keys and values can both be cut into."""
        return math.gcd(self.head_dim, self.value_width)


class LayerRange(NamedTuple):
    """KV of tokens [start, end) in one layer. For a recurrent layer: the state after exactly `end` tokens, start = 0."""

    layer: int
    start: int
    end: int


class KVPiece(NamedTuple):
    """One layer's KV over a token range in canonical bytes; `values` is empty for a recurrent state."""

    range: LayerRange
    keys: memoryview
    values: memoryview

    @property
    def size_bytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def part(self, start: int, end: int) -> "KVPiece":
        """Tokens [start, end) of the piece, without a copy. A recurrent state has no parts."""
        layer, first, last = self.range
        assert first <= start < end <= last and self.values.nbytes, f"{self.range} has no part {start} to {end}"

        def within(data: memoryview) -> memoryview:
            row_bytes = data.nbytes // (last - first)
            return data[(start - first) * row_bytes : (end - first) * row_bytes]

        return KVPiece(LayerRange(layer, start, end), within(self.keys), within(self.values))


class KVLayout(msgspec.Struct, frozen=True, kw_only=True):
    dtype: str
    """`bfloat16`, `float32`, `float16`."""
    layers: tuple[LayerSpec, ...]

    def identity(self) -> dict[str, Any]:
        """Returns what fingerprints hash. A field that came later is left out where it says nothing, so that workers of the
        version before take the KV of those of this one."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        for spec in found["layers"]:
            if not spec["value_dim"]:
                del spec["value_dim"]
        return found

    @property
    def dtype_bytes(self) -> int:
        return {"bfloat16": 2, "float16": 2, "float32": 4}[self.dtype]

    def token_bytes(self, layer: int) -> int:
        """Bytes of one token's keys and values in `layer`; 0 for a recurrent layer."""
        spec = self.layers[layer]
        return spec.kv_heads * (spec.head_dim + spec.value_width) * self.dtype_bytes

    def needed(self, layer: int, prefill_tokens: int, from_token: int = 0) -> LayerRange:
        """Tokens of `layer` that decoding after `prefill_tokens` can still see. Full layers begin at `from_token`: a worker that
        has the tokens before has the whole prefix, while a window or a state belongs to one length only."""
        spec = self.layers[layer]
        if spec.kind is LayerKind.SLIDING:
            return LayerRange(layer, max(0, prefill_tokens - (spec.window_tokens - 1)), prefill_tokens)
        return LayerRange(layer, from_token if spec.kind is LayerKind.FULL else 0, prefill_tokens)

    def range_bytes(self, piece: LayerRange) -> int:
        spec = self.layers[piece.layer]
        if spec.kind is LayerKind.RECURRENT:
            return spec.state_bytes
        return (piece.end - piece.start) * self.token_bytes(piece.layer)

    def key_bytes(self, piece: LayerRange) -> int:
        """Bytes of the range before those of its values; of a state all."""
        spec = self.layers[piece.layer]
        if spec.kind is LayerKind.RECURRENT:
            return spec.state_bytes
        return (piece.end - piece.start) * spec.kv_heads * spec.head_dim * self.dtype_bytes

    def piece(self, part: LayerRange, data: memoryview) -> KVPiece:
        """Returns the canonical bytes of a range as keys and values, without a copy."""
        key_bytes = self.key_bytes(part)
        return KVPiece(part, data[:key_bytes], data[key_bytes:])

    def total_bytes(self, prefill_tokens: int, from_token: int = 0) -> int:
        """Bytes that a transfer of `prefill_tokens` tokens carries, without headers; S_kv(l) of Eq 1."""
        if prefill_tokens == 0:
            return 0
        return sum(self.range_bytes(self.needed(layer, prefill_tokens, from_token)) for layer in range(len(self.layers)))

    def size_points(self, max_tokens: int) -> tuple[tuple[float, float], ...]:
        """Points (tokens, total_bytes) at every power of two, and around the windows, where the line bends."""
        bends = {spec.window_tokens - 1 for spec in self.layers if spec.kind is LayerKind.SLIDING}
        lengths = {1 << power for power in range(max_tokens.bit_length())} | {max_tokens} | bends
        return tuple((float(tokens), float(self.total_bytes(tokens))) for tokens in sorted(lengths) if 0 < tokens <= max_tokens)

    def chunk_ranges(self, chunk_start: int, chunk_end: int, prefill_tokens: int, from_token: int = 0) -> Iterator[LayerRange]:
        """Ranges to ship once tokens [chunk_start, chunk_end) are computed, in layer order.

        Over all chunks this covers `needed` exactly once."""
        for layer, spec in enumerate(self.layers):
            if spec.kind is LayerKind.RECURRENT:
                if chunk_end == prefill_tokens:
                    yield LayerRange(layer, 0, prefill_tokens)
                continue
            start = max(chunk_start, self.needed(layer, prefill_tokens, from_token).start)
            if start < chunk_end:
                yield LayerRange(layer, start, chunk_end)

    def block_ranges(self, block_start: int, block_end: int) -> Iterator[LayerRange]:
        """Ranges of a prompt's block that every prefill which goes on behind it needs: those of full layers."""
        for layer, spec in enumerate(self.layers):
            if spec.kind is LayerKind.FULL:
                yield LayerRange(layer, block_start, block_end)

    def checkpoint_ranges(self, end: int) -> Iterator[LayerRange]:
        """Ranges that a prefill which goes on after `end` tokens needs beside the blocks: windows and states, none of them of use
        at another length."""
        for layer, spec in enumerate(self.layers):
            if spec.kind is not LayerKind.FULL:
                yield self.needed(layer, end)
