"""The cache of one chunked prefill. KV leaves from here: a layer's piece is handed out before its attention is even computed."""

from collections.abc import Callable
from typing import Any

import torch
from transformers.cache_utils import Cache

from prfaas.kvcache.layout import KVLayout, KVPiece, LayerKind, LayerRange


class PrefillCache(Cache):
    """Keys and values are kept as [kv_heads, tokens, head_dim], which attention reads fastest. Pieces leave in the canonical
    order [tokens, kv_heads, head_dim]: with one KV head that is a view, with several a copy of the chunk's own tokens.

    A full layer owns one buffer for the whole prompt and only ever appends to it. A sliding layer gets a new buffer per chunk
    (the last window - 1 tokens and the chunk), so that what was handed out never changes.
    """

    def __init__(
        self, layout: KVLayout, prefill_tokens: int, dtype: torch.dtype, device: torch.device, on_piece: Callable[[KVPiece], None]
    ) -> None:
        super().__init__(layers=[])
        self.layout = layout
        self.prefill_tokens = prefill_tokens
        self.dtype = dtype
        self.device = device
        self.on_piece = on_piece
        self.start = 0
        self.end = 0
        self._ranges: dict[int, LayerRange] = {}
        self._keys: dict[int, torch.Tensor] = {}
        self._values: dict[int, torch.Tensor] = {}

    def begin_chunk(self, start: int, end: int) -> None:
        assert start == self.end, f"chunks follow one another: {start} after {self.end}"
        self.start, self.end = start, end
        self._ranges = {piece.layer: piece for piece in self.layout.chunk_ranges(start, end, self.prefill_tokens)}

    def first_position(self, layer: int) -> int:
        """Of the tokens that `update` returns in this chunk."""
        spec = self.layout.layers[layer]
        return max(0, self.start - (spec.window_tokens - 1)) if spec.kind is LayerKind.SLIDING else 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes the chunk's [1, kv_heads, chunk, head_dim]; returns all that its attention may see, in the same order."""
        first = self.first_position(layer_idx)
        keys = self._grown(self._keys, layer_idx, first, key_states)
        values = self._grown(self._values, layer_idx, first, value_states)
        if piece := self._ranges.get(layer_idx):
            # May block: the link's back-pressure.
            within = slice(piece.start - first, piece.end - first)
            self.on_piece(KVPiece(piece, canonical_bytes(keys[:, within]), canonical_bytes(values[:, within])))
        return keys.unsqueeze(0), values.unsqueeze(0)

    def _grown(self, buffers: dict[int, torch.Tensor], layer: int, first: int, new: torch.Tensor) -> torch.Tensor:
        spec = self.layout.layers[layer]
        if spec.kind is LayerKind.SLIDING:
            buffer = torch.empty(spec.kv_heads, self.end - first, spec.head_dim, dtype=self.dtype, device=self.device)
            if self.start > first:
                buffer[:, : self.start - first] = buffers[layer][:, -(self.start - first) :]
            buffers[layer] = buffer
        elif layer in buffers:
            buffer = buffers[layer]
        else:
            buffer = torch.empty(spec.kv_heads, self.prefill_tokens, spec.head_dim, dtype=self.dtype, device=self.device)
            buffers[layer] = buffer
        buffer[:, self.start - first : self.end - first] = new[0]
        return buffer[:, : self.end - first]


def canonical_bytes(tensor: torch.Tensor) -> memoryview:
    """Of [kv_heads, tokens, head_dim], in the order tokens, heads. A view keeps the tensor's memory alive."""
    return tensor.transpose(0, 1).contiguous().view(torch.uint8).cpu().reshape(-1).numpy().data
