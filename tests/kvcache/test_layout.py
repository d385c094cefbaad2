"""The pieces of all chunks together are exactly what decoding needs."""

import itertools

import hypothesis.strategies as st
from hypothesis import given

from prfaas.kvcache.layout import KVLayout, LayerKind, LayerRange, LayerSpec

HYBRID = KVLayout(
    dtype="bfloat16",
    layers=(
        LayerSpec(kind=LayerKind.SLIDING, kv_heads=1, head_dim=4, window_tokens=16),
        LayerSpec(kind=LayerKind.FULL, kv_heads=2, head_dim=4),
        LayerSpec(kind=LayerKind.RECURRENT, state_bytes=40),
    ),
)


@given(st.integers(1, 200), st.integers(1, 64), st.data())
def test_chunks_cover_what_is_needed_exactly_once(prefill_tokens: int, chunk_tokens: int, data: st.DataObject) -> None:
    from_token = data.draw(st.integers(0, prefill_tokens - 1))
    shipped: dict[int, list[tuple[int, int]]] = {0: [], 1: [], 2: []}
    for start in range(0, prefill_tokens, chunk_tokens):
        end = min(start + chunk_tokens, prefill_tokens)
        for piece in HYBRID.chunk_ranges(start, end, prefill_tokens, from_token):
            shipped[piece.layer].append((piece.start, piece.end))
    for layer, ranges in shipped.items():
        needed = HYBRID.needed(layer, prefill_tokens, from_token)
        covered = sorted(ranges)
        assert covered[0][0] == needed.start and covered[-1][1] == needed.end
        assert all(a[1] == b[0] for a, b in itertools.pairwise(covered))


def test_a_block_keeps_its_tokens_of_full_layers_and_a_checkpoint_the_window_and_the_state() -> None:
    assert list(HYBRID.block_ranges(32, 64)) == [LayerRange(1, 32, 64)]
    assert list(HYBRID.checkpoint_ranges(64)) == [LayerRange(0, 49, 64), LayerRange(2, 0, 64)]
    assert list(HYBRID.checkpoint_ranges(8)) == [LayerRange(0, 0, 8), LayerRange(2, 0, 8)]


def test_sizes_of_gemma_3_270m() -> None:
    """S_kv(l) = 3,072 B x l + 7.85 MB for l >= 511: three full layers, fifteen of which the last 511 tokens count."""
    sliding = LayerSpec(kind=LayerKind.SLIDING, kv_heads=1, head_dim=256, window_tokens=512)
    full = LayerSpec(kind=LayerKind.FULL, kv_heads=1, head_dim=256)
    layout = KVLayout(dtype="bfloat16", layers=(sliding,) * 15 + (full,) * 3)
    assert layout.total_bytes(8192) == 3072 * 8192 + 15 * 511 * 1024
    assert layout.total_bytes(100) == 18 * 1024 * 100
    assert layout.total_bytes(0) == 0
