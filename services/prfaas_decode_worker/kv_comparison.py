"""KV of one prompt from two sites, compared number by number; pure.

Alike processors make the same bits. Unlike ones round differently, so their KV is close and not equal. Closeness is judged token
by token within a layer: a lie about one token must not vanish in the mean of all others.
"""

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from prfaas.kvcache.layout import KVLayout, KVPiece, LayerKind

TOLERANCES = {"bfloat16": 0.5, "float16": 0.06, "float32": 0.002}
"""Largest relative difference of one token's keys or values in one layer that rounding is taken for, by dtype. For bfloat16 as
`make bench-audit` shows: honest KV differs by up to 0.34, that of a prompt with another token by 0.74 or more. float16 rounds
by an eighth of that."""
_TINY = 1e-20


class Verdict(StrEnum):
    AGREED = "agreed"
    DISAGREED = "disagreed"
    UNKNOWN = "unknown"
    """Rounding differs, and recurrent states cannot be compared number by number: their layout is the engine's own."""


class KVComparison:
    def __init__(self, layout: KVLayout, prefill_tokens: int, from_token: int) -> None:
        self.size_bytes = layout.total_bytes(prefill_tokens, from_token)
        self.difference = 0.0
        """Largest relative difference so far; infinite where one of the two is not finite."""
        self._layout = layout
        self._needed = [layout.needed(layer, prefill_tokens, from_token) for layer in range(len(layout.layers))]
        self._keys: dict[int, bytearray] = {}
        self._values: dict[int, bytearray] = {}
        self._states_differ = False

    def take(self, piece: KVPiece) -> None:
        """Copies a piece of the other site's KV, as it is installed."""
        layer, start, end = piece.range
        if self._is_state(layer):
            self._keys[layer] = bytearray(piece.keys)
            return
        needed = self._needed[layer]
        for store, part in ((self._keys, piece.keys), (self._values, piece.values)):
            row = part.nbytes // (end - start)
            at = slice((start - needed.start) * row, (end - needed.start) * row)
            store.setdefault(layer, bytearray((needed.end - needed.start) * row))[at] = part

    def compare(self, piece: KVPiece) -> None:
        """Compares a piece of the own site's KV with what was taken."""
        layer, start, end = piece.range
        if self._is_state(layer):
            self._states_differ |= bytes(self._keys.get(layer, b"")) != piece.keys
            return
        first = start - self._needed[layer].start
        for store, own in ((self._keys, piece.keys), (self._values, piece.values)):
            row = own.nbytes // (end - start)
            theirs = memoryview(store.get(layer, b""))[first * row : (first + end - start) * row]
            if theirs != own:
                self.difference = max(self.difference, self._relative(theirs, own, end - start))

    def verdict(self, tolerance: float | None = None) -> Verdict:
        """Judges by `tolerance`; None: by that of the dtype."""
        limit = TOLERANCES.get(self._layout.dtype, 0.0) if tolerance is None else tolerance
        if not self.difference <= limit:
            return Verdict.DISAGREED
        if self._states_differ:
            return Verdict.UNKNOWN if self.difference else Verdict.DISAGREED
        return Verdict.AGREED

    def _is_state(self, layer: int) -> bool:
        return self._layout.layers[layer].kind is LayerKind.RECURRENT

    def _relative(self, theirs: memoryview, own: memoryview, tokens: int) -> float:
        """Largest difference of a token's numbers, as a share of their size, or of the median token's where that is larger.

        Some tokens' values are nearly 0, the first one's above all, and nothing but rounding remains of them."""
        if len(theirs) != len(own):
            return float("inf")
        with np.errstate(all="ignore"):  # bytes that are no honest numbers
            ours = self._numbers(own).reshape(tokens, -1)
            difference = np.linalg.norm(self._numbers(theirs).reshape(tokens, -1) - ours, axis=1)
            size = np.linalg.norm(ours, axis=1)
            largest = float(np.max(difference / np.maximum(size, max(float(np.median(size)), _TINY))))
        return largest if np.isfinite(largest) else float("inf")

    def _numbers(self, data: memoryview) -> NDArray[np.float64]:
        if self._layout.dtype == "bfloat16":
            return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        return np.frombuffer(data, np.dtype(self._layout.dtype)).astype(np.float64)
