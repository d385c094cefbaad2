"""Cache of one chunked prefill. A layer's KV is handed out from here before its attention is computed."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import torch

from prfaas.engine.model_layout import CachePlaces
from prfaas.engine.state_cache import State, StateCache
from prfaas.kvcache.block import Part, parts_of
from prfaas.kvcache.layout import KVLayout, KVPiece, LayerKind, LayerRange


class PrefillCache(StateCache):
    """Keys and values as [kv_heads, tokens, width], which attention reads fastest. Pieces leave in the canonical
    order [tokens, kv_heads, width]: with one KV head that is a view, with several a copy of the chunk's own tokens. Of a
    chunk that is kept in a cache it always is a copy: a view would hold the whole prompt's buffers in memory.

    A full layer owns one buffer for the whole prompt and only ever appends to it. A sliding layer gets a new buffer per chunk
    (the last window - 1 tokens and the chunk), so that what was handed out never changes. The state of a recurrent layer leaves
    as a copy, once a later layer begins: only then is it known to be done.
    """

    def __init__(
        self,
        layout: KVLayout,
        prefill_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
        on_piece: Callable[[KVPiece], None],
        *,
        from_token: int = 0,
        places: CachePlaces | None = None,
    ) -> None:
        """`places`: those of the model's layers; None: each has keys and values."""
        super().__init__(places or CachePlaces.of_attention(len(layout.layers)), dtype)
        self.layout = layout
        self.prefill_tokens = prefill_tokens
        self.device = device
        self.on_piece = on_piece
        self.from_token = from_token
        self.start = 0
        self.end = 0
        self._ranges: dict[int, LayerRange] = {}
        self._kept_ranges: dict[int, LayerRange] = {}
        self._kept: list[KVPiece] = []
        self._keys: dict[int, torch.Tensor] = {}
        self._values: dict[int, torch.Tensor] = {}
        self._due_states: deque[int] = deque()
        """Recurrent layers of the layout whose states after this chunk are to be handed out, or kept."""

    def load(self, pieces: Iterable[KVPiece], tokens: int) -> None:
        """Takes the prompt's first `tokens` tokens as if they had just been computed, but hands nothing out."""
        assert self.end == 0, "cached blocks come first"
        self.end = tokens
        for layer, spec in enumerate(self.layout.layers):
            if spec.kind is LayerKind.RECURRENT:
                continue
            tokens_held = (tokens if spec.kind is LayerKind.SLIDING else self.prefill_tokens) - self._first_before(layer, tokens)
            self._keys[layer] = self._empty(spec.kv_heads, tokens_held, spec.head_dim)
            self._values[layer] = self._empty(spec.kv_heads, tokens_held, spec.value_width)
        for piece in pieces:
            layer, start, end = piece.range
            spec = self.layout.layers[layer]
            if spec.kind is LayerKind.RECURRENT:
                self._load_state(layer, piece)
                continue
            first = self._first_before(layer, tokens)
            self._keys[layer][:, start - first : end - first] = self._tensor(piece.keys, spec.kv_heads, spec.head_dim)
            self._values[layer][:, start - first : end - first] = self._tensor(piece.values, spec.kv_heads, spec.value_width)

    def begin_chunk(self, start: int, end: int, kept: Iterable[LayerRange] = ()) -> None:
        """Begins the chunk [start, end). `kept`: ranges that are to be taken afterwards, at most one per layer."""
        assert start == self.end, f"chunks follow one another: {start} after {self.end}"
        self.start, self.end = start, end
        ranges = self.layout.chunk_ranges(start, end, self.prefill_tokens, self.from_token)
        self._ranges = {piece.layer: piece for piece in ranges}
        self._kept_ranges = {piece.layer: piece for piece in kept}
        self._kept = []
        self._due_states = deque(
            layer for layer in self.places.states.values() if layer in self._ranges or layer in self._kept_ranges
        )

    def end_chunk(self) -> None:
        """Hands out the states that no later layer has. Raises EngineError for one that is not there."""
        self.reached(len(self.layout.layers))

    def reached(self, layer: int) -> None:
        while self._due_states and self._due_states[0] < layer:
            self._hand_out_state(self._due_states.popleft())

    def take_kept(self) -> tuple[Part, Part]:
        """Returns what was to be kept of the chunk just computed, in memory of its own: of its block, and of the checkpoint."""
        kept, self._kept = self._kept, []
        return parts_of(self.layout, kept)

    def first_position(self, layer: int) -> int:
        """Returns the position of the first token that `update` returns in this chunk."""
        return self._first_before(layer, self.start)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Takes the chunk's [1, kv_heads, chunk, width]. Returns all that its attention may see, in the same order."""
        layer = self.places.kv[layer_idx]
        self.reached(layer)
        first = self.first_position(layer)
        keys = self._grown(self._keys, layer, first, key_states)
        values = self._grown(self._values, layer, first, value_states)
        shipped, kept = self._ranges.get(layer), self._kept_ranges.get(layer)
        if wanted := kept or shipped:
            within = slice(wanted.start - first, wanted.end - first)
            bytes_of = own_bytes if kept else canonical_bytes
            piece = KVPiece(wanted, bytes_of(keys[:, within]), bytes_of(values[:, within]))
            if kept:
                self._kept.append(piece)
            if shipped:
                # May block: the link's back-pressure.
                self.on_piece(piece.part(shipped.start, shipped.end))
        return keys.unsqueeze(0), values.unsqueeze(0)

    def _load_state(self, layer: int, piece: KVPiece) -> None:
        shape = self.places.state
        assert shape is not None
        state = State.zero(shape, self.dtype, self.device)
        state.fill(piece.keys)
        self.conv[layer] = state.parts.conv.unsqueeze(0)
        if state.parts.recurrent is not None:
            self.recurrent[layer] = state.parts.recurrent.unsqueeze(0)

    def _hand_out_state(self, layer: int) -> None:
        shape = self.places.state
        assert shape is not None
        state = State.zero(shape, self.dtype, torch.device("cpu"))
        state.copy(self.rows(layer)[0])
        piece = KVPiece(LayerRange(layer, 0, self.end), state.raw.numpy().data, memoryview(b""))
        if layer in self._kept_ranges:
            self._kept.append(piece)
        if layer in self._ranges:
            self.on_piece(piece)

    def _first_before(self, layer: int, position: int) -> int:
        """Returns the position of the first token that the one at `position` sees in this layer."""
        spec = self.layout.layers[layer]
        return max(0, position - (spec.window_tokens - 1)) if spec.kind is LayerKind.SLIDING else 0

    def _grown(self, buffers: dict[int, torch.Tensor], layer: int, first: int, new: torch.Tensor) -> torch.Tensor:
        _, kv_heads, _, width = new.shape
        if self.layout.layers[layer].kind is LayerKind.SLIDING:
            buffer = self._empty(kv_heads, self.end - first, width)
            if self.start > first:
                buffer[:, : self.start - first] = buffers[layer][:, -(self.start - first) :]
            buffers[layer] = buffer
        elif layer in buffers:
            buffer = buffers[layer]
        else:
            buffer = self._empty(kv_heads, self.prefill_tokens, width)
            buffers[layer] = buffer
        buffer[:, self.start - first : self.end - first] = new[0]
        return buffer[:, : self.end - first]

    def _empty(self, kv_heads: int, tokens: int, width: int) -> torch.Tensor:
        return torch.empty(kv_heads, tokens, width, dtype=self.dtype, device=self.device)

    def _tensor(self, data: memoryview, kv_heads: int, width: int) -> torch.Tensor:
        """Returns canonical bytes as [kv_heads, tokens, width]."""
        return torch.frombuffer(data, dtype=self.dtype).view(-1, kv_heads, width).transpose(0, 1)


def canonical_bytes(tensor: torch.Tensor) -> memoryview:
    """Returns the bytes of [kv_heads, tokens, width] in the order tokens, heads. A view keeps the tensor's memory alive."""
    return tensor.transpose(0, 1).contiguous().view(torch.uint8).cpu().reshape(-1).numpy().data


def own_bytes(tensor: torch.Tensor) -> memoryview:
    """Returns the same as `canonical_bytes`, always in memory of their own."""
    tokens_first = tensor.transpose(0, 1)
    return canonical_bytes(torch.empty(tokens_first.shape, dtype=tensor.dtype).copy_(tokens_first).transpose(0, 1))
