"""One decode step's view of a ragged batch, in the shape that transformers' attention layers call."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from prfaas.engine.model_layout import CachePlaces
from prfaas.engine.sequence_cache import SequenceCache
from prfaas.engine.state_cache import StateCache


class Ragged(NamedTuple):
    """Keys or values of a batch, each row [1, kv_heads, its own length, width]. Layers hand them to our attention."""

    rows: list[torch.Tensor]


class DecodeCache(StateCache):
    """Sequences of one step's rows, as transformers' layers see a cache.

    States are copies, stacked row by row: layers change them, and a step that failed must
    leave the sequences' own as they were."""

    def __init__(self, sequences: Sequence[SequenceCache], places: CachePlaces, dtype: torch.dtype) -> None:
        super().__init__(places, dtype)
        self.sequences = sequences
        for layer in places.states.values():
            parts = [sequence.states[layer].parts for sequence in sequences]
            self.conv[layer] = torch.stack([each.conv for each in parts])
            recurrent = [each.recurrent for each in parts if each.recurrent is not None]
            if recurrent:
                self.recurrent[layer] = torch.stack(recurrent)

    def hand_back(self) -> None:
        """Gives each sequence the states after this step, which are its own once it grows. Raises EngineError."""
        for layer in self.places.states.values():
            for sequence, parts in zip(self.sequences, self.rows(layer), strict=True):
                sequence.next_states[layer] = parts

    # transformers only hands on what comes back, to the attention function.
    def update(  # type: ignore[override]
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Ragged, Ragged]:
        """Takes [rows, kv_heads, 1, width] of the step's tokens. Returns all keys and values of each row."""
        layer = self.places.kv[layer_idx]
        keys, values = [], []
        new = zip(self.sequences, key_states.squeeze(2).unbind(), value_states.squeeze(2).unbind(), strict=True)
        for sequence, new_keys, new_values in new:
            row_keys, row_values = sequence.append(layer, new_keys, new_values)
            keys.append(row_keys)
            values.append(row_values)
        return Ragged(keys), Ragged(values)
