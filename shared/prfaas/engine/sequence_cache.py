"""KV and states of one decoding request: allocated once, filled by `install`, then one token longer per step."""

import numpy as np
import torch

from prfaas.engine.protocol import EngineError
from prfaas.engine.state_cache import State, StateParts
from prfaas.engine.state_shape import StateShape
from prfaas.kvcache.layout import KVLayout, KVPiece, LayerKind, LayerRange


def slots_of(layout: KVLayout, layer: int, total_tokens: int) -> int:
    """Returns the tokens that a layer holds: none in a recurrent one, which has a state instead."""
    spec = layout.layers[layer]
    if spec.kind is LayerKind.RECURRENT:
        return 0
    return min(total_tokens, spec.window_tokens) if spec.kind is LayerKind.SLIDING else total_tokens


class SequenceCache:
    """Keys and values per layer, of shape [slots, kv_heads, width]; token p lives in slot p % slots.

    A sliding layer has one slot per token of its window, so it is a ring: the token that leaves the window is overwritten by
    the one that enters it, and attention needs no mask. (The slots' order does not matter: positions are inside the keys.)

    A recurrent layer has a state after all tokens so far, which a step replaces as a whole.
    """

    def __init__(
        self,
        layout: KVLayout,
        prefill_tokens: int,
        total_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
        state: StateShape | None = None,
    ) -> None:
        """`state`: shape of the states of recurrent layers; None where there are none."""
        self.layout = layout
        self.prefill_tokens = prefill_tokens
        self.total_tokens = total_tokens
        self.tokens = prefill_tokens
        """Tokens in the cache, once all is installed: the position of the next one."""
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        for layer, spec in enumerate(layout.layers):
            slots = slots_of(layout, layer, total_tokens)
            self.keys.append(torch.empty(slots, spec.kv_heads, spec.head_dim, dtype=dtype, device=device))
            self.values.append(torch.empty(slots, spec.kv_heads, spec.value_width, dtype=dtype, device=device))
        recurrent = [layer for layer, spec in enumerate(layout.layers) if spec.kind is LayerKind.RECURRENT]
        self.states = {layer: State.zero(state, dtype, device) for layer in recurrent if state is not None}
        self.next_states: dict[int, StateParts] = {}
        """States after the step that was computed last, until `grow` makes them the sequence's own."""
        self._needed = [layout.needed(layer, prefill_tokens) for layer in range(len(layout.layers))]
        self._installed = [needed.start for needed in self._needed]

    def install(self, piece: KVPiece) -> None:
        """Takes a layer's pieces in token order without gaps. A piece from the layer's first token on starts it again.

        Raises EngineError for a piece that does not fit."""
        layer, start, end = piece.range
        if not 0 <= layer < len(self.keys):
            raise EngineError(f"layer {layer} does not exist; the model has layers 0 to {len(self.keys) - 1}")
        needed = self._needed[layer]
        if start not in (needed.start, self._installed[layer]) or not start < end <= needed.end:
            raise EngineError(
                f"KV of layer {layer} came for tokens {start} to {end}; "
                f"expected is a range from {self._installed[layer]}, up to {needed.end}"
            )
        if layer in self.states:
            self._install_state(piece)
            return
        key_bytes = self.layout.key_bytes(piece.range)
        value_bytes = self.layout.range_bytes(piece.range) - key_bytes
        if (len(piece.keys), len(piece.values)) != (key_bytes, value_bytes):
            raise EngineError(
                f"KV of layer {layer}, tokens {start} to {end}, has {len(piece.keys)} and {len(piece.values)} bytes; "
                f"keys have {key_bytes} and values {value_bytes}"
            )
        _write(self.keys[layer], start, end, piece.keys)
        _write(self.values[layer], start, end, piece.values)
        self._installed[layer] = end

    def _install_state(self, piece: KVPiece) -> None:
        layer, _, end = piece.range
        needed, size_bytes = self._needed[layer], self.layout.layers[layer].state_bytes
        if end != needed.end:
            raise EngineError(f"the state of layer {layer} came for {end} tokens; needed is that after {needed.end}")
        if len(piece.keys) != size_bytes or len(piece.values):
            raise EngineError(
                f"the state of layer {layer} has {len(piece.keys)} and {len(piece.values)} bytes; expected are {size_bytes}"
            )
        self.states[layer].fill(piece.keys)
        self._installed[layer] = end

    def read(self, piece: LayerRange) -> KVPiece:
        """Returns a copy of installed tokens of a full layer, in canonical bytes."""
        layer, start, end = piece
        assert self.layout.layers[layer].kind is LayerKind.FULL and end <= self._installed[layer]
        return KVPiece(piece, _read(self.keys[layer][start:end]), _read(self.values[layer][start:end]))

    def missing(self) -> list[int]:
        """Returns the layers whose KV is not installed completely."""
        return [needed.layer for needed, end in zip(self._needed, self._installed, strict=True) if end != needed.end]

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores one token's [kv_heads, width]. Returns all that it attends to as [1, kv_heads, slots, width].

        The sequence grows only with `grow`, so a step that failed half-way may be done again."""
        layer_keys, layer_values = self.keys[layer], self.values[layer]
        slots = layer_keys.shape[0]
        slot = self.tokens % slots
        layer_keys[slot] = keys
        layer_values[slot] = values
        if self.tokens + 1 < slots:
            layer_keys, layer_values = layer_keys[: self.tokens + 1], layer_values[: self.tokens + 1]
        return layer_keys.transpose(0, 1).unsqueeze(0), layer_values.transpose(0, 1).unsqueeze(0)

    def grow(self) -> None:
        """Makes the token that was computed last the sequence's own. Nothing of it fails."""
        for layer, parts in self.next_states.items():
            self.states[layer].copy(parts)
        self.next_states.clear()
        self.tokens += 1


def _read(slots: torch.Tensor) -> memoryview:
    return slots.to("cpu", copy=True).view(torch.uint8).reshape(-1).numpy().data


def _write(slots: torch.Tensor, start: int, end: int, data: memoryview) -> None:
    source = np.frombuffer(data, dtype=np.uint8).reshape(end - start, -1)
    first = start % slots.shape[0]
    before_wrap = min(end - start, slots.shape[0] - first)
    _copy(slots[first : first + before_wrap], source[:before_wrap])
    if before_wrap < end - start:
        _copy(slots[: end - start - before_wrap], source[before_wrap:])


def _copy(target: torch.Tensor, source: "np.ndarray[tuple[int, int], np.dtype[np.uint8]]") -> None:
    raw = target.view(torch.uint8).view(target.shape[0], -1)
    if target.device.type == "cpu":
        # NumPy, since torch warns of (and must not write to) memory that is read-only, as verified frames are.
        np.copyto(raw.numpy(), source)
    else:
        raw.copy_(torch.from_numpy(source.copy()))
