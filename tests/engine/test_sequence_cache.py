"""The cache of one sequence against the plain definition: a token sees itself and the window_tokens - 1 before it."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prfaas.engine.protocol import EngineError
from prfaas.engine.sequence_cache import SequenceCache
from prfaas.kvcache.layout import KVLayout, KVPiece, LayerKind, LayerRange, LayerSpec

WINDOW_TOKENS = 5
LAYOUT = KVLayout(
    dtype="float32",
    layers=(
        LayerSpec(kind=LayerKind.FULL, kv_heads=2, head_dim=3, value_dim=2),
        LayerSpec(kind=LayerKind.SLIDING, kv_heads=2, head_dim=3, window_tokens=WINDOW_TOKENS),
    ),
)


def kv_of(layer: int, token: int, values: bool = False) -> torch.Tensor:
    """[kv_heads, width], different for each token, head and element."""
    spec = LAYOUT.layers[layer]
    numbers = torch.arange(6, dtype=torch.float32).reshape(2, 3) + 10 * token + (0.5 if values else 0)
    return numbers[:, : spec.value_width if values else spec.head_dim]


def piece_of(layer: int, start: int, end: int) -> KVPiece:
    def data(values: bool) -> memoryview:
        return memoryview(torch.stack([kv_of(layer, token, values) for token in range(start, end)]).numpy().tobytes())

    return KVPiece(LayerRange(layer, start, end), data(False), data(True))


def new_sequence(prefill_tokens: int, total_tokens: int) -> SequenceCache:
    return SequenceCache(LAYOUT, prefill_tokens, total_tokens, torch.float32, torch.device("cpu"))


def visible(layer: int, states: torch.Tensor, values: bool = False) -> set[int]:
    """Tokens that are among [1, kv_heads, slots, width]."""
    rows = states[0].transpose(0, 1)
    tokens = {round(float(row[0, 0]) - (0.5 if values else 0)) // 10 for row in rows}
    assert len(tokens) == len(rows)
    assert all(torch.equal(row, kv_of(layer, round(float(row[0, 0])) // 10, values)) for row in rows)
    return tokens


@given(data=st.data(), prefill_tokens=st.integers(0, 17), more_tokens=st.integers(1, 14))
def test_a_token_sees_exactly_what_its_layer_lets_it_see(data: st.DataObject, prefill_tokens: int, more_tokens: int) -> None:
    sequence = new_sequence(prefill_tokens, prefill_tokens + more_tokens)
    for layer in range(len(LAYOUT.layers)):
        needed = LAYOUT.needed(layer, prefill_tokens)
        cuts = data.draw(st.lists(st.integers(needed.start, needed.end), max_size=4).map(sorted))
        bounds = [needed.start, *cuts, needed.end]
        for start, end in pairwise(bounds):
            if start < end:
                sequence.install(piece_of(layer, start, end))
    assert sequence.missing() == []
    for token in range(prefill_tokens, prefill_tokens + more_tokens):
        for layer, first in ((0, 0), (1, max(0, token - WINDOW_TOKENS + 1))):
            keys, values = sequence.append(layer, kv_of(layer, token), kv_of(layer, token, values=True))
            assert visible(layer, keys) == visible(layer, values, values=True) == set(range(first, token + 1))
        sequence.tokens += 1


def test_a_second_attempt_starts_a_layer_again() -> None:
    sequence = new_sequence(8, 12)
    sequence.install(piece_of(0, 0, 5))
    sequence.install(piece_of(0, 0, 3))
    with pytest.raises(EngineError, match="expected is a range from 3, up to 8"):
        sequence.install(piece_of(0, 5, 8))
    sequence.install(piece_of(0, 3, 8))
    assert sequence.missing() == [1]
    sequence.install(piece_of(1, 4, 8))
    assert sequence.missing() == []


def test_memory_is_bounded_by_the_window() -> None:
    sequence = new_sequence(1000, 5000)
    assert [keys.shape[0] for keys in sequence.keys] == [5000, WINDOW_TOKENS]


def test_a_step_that_failed_can_be_done_again() -> None:
    sequence = new_sequence(0, 3)
    sequence.append(0, kv_of(0, 7), kv_of(0, 7, values=True))
    keys, _ = sequence.append(0, kv_of(0, 0), kv_of(0, 0, values=True))
    assert visible(0, keys) == {0}
