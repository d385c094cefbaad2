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


LATENTS = KVLayout(dtype="bfloat16", layers=(LayerSpec(kind=LayerKind.FULL, kv_heads=1, head_dim=512, value_dim=64),))
"""DeepSeek V3's: a latent, and the rotary part of the keys."""


def test_keys_and_values_of_unlike_widths_are_cut_apart_where_the_layout_says() -> None:
    tokens = LayerRange(0, 10, 13)
    assert (LATENTS.token_bytes(0), LATENTS.key_bytes(tokens), LATENTS.range_bytes(tokens)) == (1152, 3 * 1024, 3 * 1152)
    data = memoryview(bytes(index % 251 for index in range(3 * 1152)))
    piece = LATENTS.piece(tokens, data)
    assert (piece.keys, piece.values) == (data[: 3 * 1024], data[3 * 1024 :])
    part = piece.part(11, 12)
    assert (part.keys, part.values) == (data[1024:2048], data[3 * 1024 + 128 : 3 * 1024 + 256])
    assert LATENTS.layers[0].vector_dim == 64


def test_a_state_is_all_keys() -> None:
    piece = HYBRID.piece(LayerRange(2, 0, 7), memoryview(bytes(40)))
    assert (piece.keys.nbytes, piece.values.nbytes) == (40, 0)


def test_sizes_of_gemma_3_270m() -> None:
    """S_kv(l) = 3,072 B x l + 7.85 MB for l >= 511: three full layers, fifteen of which the last 511 tokens count."""
    sliding = LayerSpec(kind=LayerKind.SLIDING, kv_heads=1, head_dim=256, window_tokens=512)
    full = LayerSpec(kind=LayerKind.FULL, kv_heads=1, head_dim=256)
    layout = KVLayout(dtype="bfloat16", layers=(sliding,) * 15 + (full,) * 3)
    assert layout.total_bytes(8192) == 3072 * 8192 + 15 * 511 * 1024
    assert layout.total_bytes(100) == 18 * 1024 * 100
    assert layout.total_bytes(0) == 0


def test_a_field_that_came_later_changes_no_fingerprint_where_it_says_nothing() -> None:
    assert [set(spec) for spec in HYBRID.identity()["layers"]] == [
        {"kind", "kv_heads", "head_dim", "window_tokens", "state_bytes"}
    ] * len(HYBRID.layers)
    assert LATENTS.identity()["layers"][0]["value_dim"] == 64
