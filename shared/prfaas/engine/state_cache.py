"""States of recurrent layers, in the shape in which transformers' layers read and write them."""

from typing import Any, NamedTuple

import numpy as np
import torch
from transformers.cache_utils import Cache

from prfaas.engine.model_layout import CachePlaces
from prfaas.engine.protocol import EngineError
from prfaas.engine.state_shape import StateShape


class StateParts(NamedTuple):
    recurrent: torch.Tensor | None
    """Sums that the recurrence carries on; None in a layer that is a convolution alone."""
    conv: torch.Tensor


class State(NamedTuple):
    """One layer's state of one sequence. Its canonical bytes are the recurrent part, then the convolution's."""

    raw: torch.Tensor
    parts: StateParts
    """Views of the bytes. A state of zeros is that before the first token."""

    @classmethod
    def zero(cls, shape: StateShape, dtype: torch.dtype, device: torch.device) -> "State":
        raw = torch.zeros(shape.size_bytes(dtype.itemsize), dtype=torch.uint8, device=device)
        first = raw[: shape.recurrent_bytes]
        recurrent = first.view(torch.float32).view(shape.recurrent) if shape.recurrent else None
        return cls(raw, StateParts(recurrent, raw[shape.recurrent_bytes :].view(dtype).view(shape.conv)))

    def fill(self, data: memoryview) -> None:
        """Takes canonical bytes."""
        # NumPy, since torch warns of memory that is read-only, as verified frames are.
        source = np.frombuffer(data, dtype=np.uint8)
        if self.raw.device.type == "cpu":
            np.copyto(self.raw.numpy(), source)
        else:
            self.raw.copy_(torch.from_numpy(source.copy()))

    def copy(self, parts: StateParts) -> None:
        for own, other in zip(self.parts, parts, strict=True):
            if own is not None and other is not None:
                own.copy_(other)


class StateCache(Cache):
    """States of all rows of one call. A layer changes what it was handed in place, or hands back a new one: what lies here once
    the layer is done is its state after the call's last token."""

    def __init__(self, places: CachePlaces, dtype: torch.dtype) -> None:
        super().__init__(layers=[])
        self.places = places
        self.dtype = dtype
        self.conv: dict[int, torch.Tensor] = {}
        """[rows, channels, tokens] by layer of the KV layout; missing before the first token."""
        self.recurrent: dict[int, torch.Tensor] = {}

    def reached(self, layer: int) -> None:
        """Hears that a layer of the KV layout is being computed: all before it are done."""

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        return self.conv.get(self._place(layer_idx, state_idx))

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        return self.recurrent.get(self._place(layer_idx, state_idx))

    def update_conv_state(  # type: ignore[override]
        self, conv_states: torch.Tensor, layer_idx: int, state_idx: int = 0, *, conv_kernel_size: int
    ) -> torch.Tensor:
        """Takes a chunk's [rows, channels, tokens]. Returns it behind what the convolution still sees of the tokens before."""
        layer = self._place(layer_idx, state_idx)
        before = self.conv.get(layer)
        if before is None:
            missing_tokens = max(0, conv_kernel_size - conv_states.shape[-1])
            seen = torch.nn.functional.pad(conv_states, (missing_tokens, 0))
        else:
            seen = torch.cat([before, conv_states], dim=-1)
        # A copy: a view would be changed with the chunk's own, and keep all of it in memory.
        self.conv[layer] = seen[..., -conv_kernel_size:].clone()
        return seen

    def update_recurrent_state(
        self, recurrent_states: torch.Tensor, layer_idx: int, state_idx: int = 0, **kwargs: Any
    ) -> torch.Tensor:
        # A copy: some classes hand over a view of the states at the ends of all their steps.
        state = self.recurrent[self._place(layer_idx, state_idx)] = recurrent_states.clone()
        return state

    def is_recording_past(self, layer_idx: int) -> bool:
        """Returns False: no state is ever wound back."""
        return False

    def rows(self, layer: int) -> list["StateParts"]:
        """Returns each sequence's state in a layer of the layout. Raises EngineError where the layer left none, or one of another
        shape or dtype than is known of its class."""
        shape = self.places.state
        assert shape is not None
        conv, recurrent = self.conv.get(layer), self.recurrent.get(layer)
        found = [(tuple(each.shape[1:]), each.dtype) for each in (recurrent, conv) if each is not None]
        expected = [(shape.recurrent, torch.float32)] if shape.recurrent else []
        expected.append((shape.conv, self.dtype))
        if conv is None or found != expected:
            raise EngineError(f"layer {layer} of the KV layout left the state {found}; expected is {expected}")
        if recurrent is None:
            return [StateParts(None, each) for each in conv.unbind()]
        return [StateParts(*each) for each in zip(recurrent.unbind(), conv.unbind(), strict=True)]

    def _place(self, layer_idx: int, state_idx: int) -> int:
        assert state_idx == 0, "a layer of the classes that are served has one state"
        layer = self.places.states[layer_idx]
        self.reached(layer)
        return layer
