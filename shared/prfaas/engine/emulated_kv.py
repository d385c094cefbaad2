"""The bytes of the emulated engine's KV: decided by the tokens alone, and as compressible as the KV of a real model.

Token p of a layer is a hash of tokens 0 to p, of the layer and of the place in the row, so it is the same wherever, in
whatever chunks and after whatever cached prefix it is made, and another prompt, order or position gives other bytes.
"""

from collections.abc import Sequence
from functools import cache
from statistics import NormalDist
from typing import overload

import numpy as np
from numpy.typing import NDArray

from prfaas.kvcache.block import Part
from prfaas.kvcache.layout import KVLayout, KVPiece, LayerKind, LayerRange

Words = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_CHANNEL_SCALES = 2
"""Number of scales, powers of two, in which channels differ."""
_MEAN = 1.0
"""Mean of the values in standard deviations. With it the high byte of a bf16 is as compressible as in real KV: byte planes under
zstd are 1.46 to 1.48 times smaller, real ones 1.45 to 1.49 times."""


class PrefixHashes:
    """Hashes of a prompt's prefixes: one per token, of all tokens up to it."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        tokens = np.fromiter(token_ids, dtype=np.uint64, count=len(token_ids))
        places = np.arange(1, len(tokens) + 1, dtype=np.uint64) * _GOLDEN
        self._hashes = _mixed(np.cumsum(_mixed(tokens + places), dtype=np.uint64))

    def piece(self, layout: KVLayout, part: LayerRange) -> KVPiece:
        """Returns keys and values of tokens [start, end), or the state after `end` tokens."""
        spec = layout.layers[part.layer]
        if spec.kind is LayerKind.RECURRENT:
            return _state(self._hashes[part.end - 1 : part.end], layout, part)
        keys = spec.kv_heads * spec.head_dim
        row = keys + spec.kv_heads * spec.value_width
        values = _values(self._hashes[part.start : part.end], part.layer, row)
        return KVPiece(part, _bytes(values[:, :keys]), _bytes(values[:, keys:]))

    def states(self, layout: KVLayout, parts: Sequence[LayerRange]) -> Part:
        """Returns the states after as many tokens. They count as what a machine keeps, and are made when they are looked at."""
        assert all(layout.layers[part.layer].kind is LayerKind.RECURRENT for part in parts), "windows are not emulated"
        size_bytes = sum(layout.range_bytes(part) for part in parts)
        last = parts[0].end - 1 if parts else 0
        return Part(_States(self._hashes[last : last + 1].copy(), layout, parts), size_bytes)


class _States(Sequence[KVPiece]):
    def __init__(self, last_hash: Words, layout: KVLayout, parts: Sequence[LayerRange]) -> None:
        self._last_hash = last_hash
        self._layout = layout
        self._parts = parts

    def __len__(self) -> int:
        return len(self._parts)

    @overload
    def __getitem__(self, index: int) -> KVPiece: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[KVPiece]: ...

    def __getitem__(self, index: int | slice) -> KVPiece | Sequence[KVPiece]:
        if isinstance(index, slice):
            return _States(self._last_hash, self._layout, self._parts[index])
        return _state(self._last_hash, self._layout, self._parts[index])


def _state(last_hash: Words, layout: KVLayout, part: LayerRange) -> KVPiece:
    state = _values(last_hash, part.layer, layout.layers[part.layer].state_bytes // 2)
    return KVPiece(part, _bytes(state), memoryview(b""))


def _values(hashes: Words, layer: int, row: int) -> NDArray[np.uint16]:
    """Returns bf16 numbers of shape [tokens, row]."""
    columns = _mixed(np.arange(-(-row // 4), dtype=np.uint64) + np.uint64(layer << 32))
    random = _mixed(hashes[:, None] + columns).view(np.uint16)[:, :row]
    scales = _mixed(columns).view(np.uint16)[:row] % _CHANNEL_SCALES
    # One more in the exponent is twice as much.
    return _bell_curve()[random] + (scales << 7)


@cache
def _bell_curve() -> NDArray[np.uint16]:
    """Returns a normally distributed bf16 for each 16-bit number."""
    normal = NormalDist(mu=_MEAN)
    # Few enough to be cheap at start, and the low byte of the result still is incompressible.
    quantiles = np.array([normal.inv_cdf((index + 0.5) / 65536) for index in range(65536)], dtype=np.float32)
    return (quantiles.view(np.uint32) >> 16).astype(np.uint16)


def _bytes(values: NDArray[np.uint16]) -> memoryview:
    return np.ascontiguousarray(values).data.cast("B")


def _mixed(words: Words) -> Words:
    """Finalizer of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
