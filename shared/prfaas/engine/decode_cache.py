"""One decode step's view of a ragged batch, in the shape that transformers' attention layers call."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers.cache_utils import Cache

from prfaas.engine.sequence_cache import SequenceCache


class Ragged(NamedTuple):
    """Keys or values of a batch, each row [1, kv_heads, its own length, width]. Layers hand them to our attention."""

    rows: list[torch.Tensor]


class DecodeCache(Cache):
    """Sequences of one step's rows, as transformers' layers see a cache."""

    def __init__(self, sequences: Sequence[SequenceCache]) -> None:
        super().__init__(layers=[])
        self.sequences = sequences

    # transformers only hands on what comes back, to the attention function.
    def update(  # type: ignore[override]
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Ragged, Ragged]:
        """Takes [rows, kv_heads, 1, width] of the step's tokens. Returns all keys and values of each row."""
        keys, values = [], []
        new = zip(self.sequences, key_states.squeeze(2).unbind(), value_states.squeeze(2).unbind(), strict=True)
        for sequence, new_keys, new_values in new:
            row_keys, row_values = sequence.append(layer_idx, new_keys, new_values)
            keys.append(row_keys)
            values.append(row_values)
        return Ragged(keys), Ragged(values)
