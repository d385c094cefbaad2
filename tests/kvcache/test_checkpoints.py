"""Places of checkpoints."""

import hypothesis.strategies as st
from hypothesis import given

from prfaas.kvcache.checkpoints import checkpoint_places, checkpoint_spacing
from prfaas.kvcache.layout import KVLayout, LayerKind, LayerSpec

FULL = LayerSpec(kind=LayerKind.FULL, kv_heads=1, head_dim=256)
SLIDING = LayerSpec(kind=LayerKind.SLIDING, kv_heads=1, head_dim=256, window_tokens=512)
STATE = LayerSpec(kind=LayerKind.RECURRENT, state_bytes=1_000_000)


def layout(*layers: LayerSpec) -> KVLayout:
    return KVLayout(dtype="bfloat16", layers=layers)


def test_regular_ones_take_an_eighth_of_the_blocks_between_them() -> None:
    assert checkpoint_spacing(layout(FULL, FULL), 512) == 0
    assert checkpoint_spacing(layout(*[SLIDING] * 15, *[FULL] * 3), 512) == 40  # Gemma 3 270M
    assert checkpoint_spacing(layout(STATE, STATE, STATE, FULL), 512) == 46
    assert checkpoint_spacing(layout(STATE), 512) == 8
    assert checkpoint_spacing(layout(SLIDING), 128) == 32


@given(st.integers(1, 20), st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
def test_a_prefill_leaves_them_at_its_end_where_prompts_parted_and_at_regular_distances(
    spacing: int, resumed: int, more_matched: int, more: int
) -> None:
    matched = resumed + more_matched
    whole = matched + more
    places = checkpoint_places(spacing, resumed=resumed, matched=matched, whole=whole)
    assert places == {place for place in range(resumed + 1, whole + 1) if place in (matched, whole) or not place % spacing}
