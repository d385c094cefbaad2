"""Two sites' KV of one prompt: the same bits agree, rounding agrees within a tolerance, anything else does not."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.kvcache.layout import KVLayout, KVPiece, LayerKind, LayerRange, LayerSpec
from prfaas_decode_worker.kv_comparison import KVComparison, Verdict

TOKENS, FROM_TOKEN = 40, 8
DTYPES = ("bfloat16", "float16", "float32")


def layout(dtype: str, *, state_bytes: int = 0) -> KVLayout:
    layers = [
        LayerSpec(kind=LayerKind.FULL, kv_heads=2, head_dim=8, value_dim=4),
        LayerSpec(kind=LayerKind.SLIDING, kv_heads=1, head_dim=16, window_tokens=10),
    ]
    if state_bytes:
        layers.append(LayerSpec(kind=LayerKind.RECURRENT, state_bytes=state_bytes))
    return KVLayout(dtype=dtype, layers=tuple(layers))


def packed(numbers: np.ndarray, dtype: str) -> memoryview:
    if dtype == "bfloat16":
        return memoryview((numbers.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes())
    return memoryview(numbers.astype(dtype).tobytes())


def pieces(
    of: KVLayout, cuts: Sequence[int], *, noise: float = 0.0, token: int | None = None, factor: float = 1.0, state: bytes = b""
) -> list[KVPiece]:
    """KV of one prompt, cut at these tokens. `noise` is relative; `factor` is applied to one token's keys in the last layer."""
    out = []
    for layer, spec in enumerate(of.layers):
        needed = of.needed(layer, TOKENS, FROM_TOKEN)
        if spec.kind is LayerKind.RECURRENT:
            out.append(KVPiece(LayerRange(layer, 0, TOKENS), memoryview(state or bytes(spec.state_bytes)), memoryview(b"")))
            continue
        random = np.random.default_rng(layer)
        both = [random.standard_normal((TOKENS, spec.kv_heads * width)) for width in (spec.head_dim, spec.value_width)]
        for part in both:
            part *= 1 + noise * np.random.default_rng(99).uniform(-1, 1, part.shape)
        if token is not None and layer == 1:
            both[0][token] *= factor
        edges = [needed.start, *(cut for cut in sorted(set(cuts)) if needed.start < cut < needed.end), needed.end]
        for start, end in pairwise(edges):
            keys, values = (packed(part[start:end], of.dtype) for part in both)
            out.append(KVPiece(LayerRange(layer, start, end), keys, values))
    return out


def compared(of: KVLayout, theirs: list[KVPiece], own: list[KVPiece]) -> KVComparison:
    comparison = KVComparison(of, TOKENS, FROM_TOKEN)
    for piece in theirs:
        comparison.take(piece)
    for piece in own:
        comparison.compare(piece)
    return comparison


@given(st.sampled_from(DTYPES), st.lists(st.integers(0, TOKENS), max_size=4), st.lists(st.integers(0, TOKENS), max_size=4))
def test_the_same_bits_agree_however_they_were_cut(dtype: str, cuts: list[int], other_cuts: list[int]) -> None:
    of = layout(dtype, state_bytes=12)
    comparison = compared(of, pieces(of, cuts), pieces(of, other_cuts))
    assert comparison.difference == 0.0 and comparison.verdict(0.0) is Verdict.AGREED
    assert comparison.size_bytes == of.total_bytes(TOKENS, FROM_TOKEN)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_agrees_and_is_told_where_all_processors_are_alike(dtype: str) -> None:
    of = layout(dtype)
    noise = {"bfloat16": 0.02, "float16": 3e-3, "float32": 1e-4}[dtype]
    comparison = compared(of, pieces(of, [20]), pieces(of, [30], noise=noise))
    assert comparison.difference > 0
    assert comparison.verdict() is Verdict.AGREED and comparison.verdict(0.0) is Verdict.DISAGREED


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_token_that_differs_is_enough(dtype: str) -> None:
    of = layout(dtype)
    comparison = compared(of, pieces(of, []), pieces(of, [], token=TOKENS - 1, factor=2.5))
    assert comparison.difference == pytest.approx(1.5 / 2.5, rel=0.05)
    assert comparison.verdict() is Verdict.DISAGREED


def test_a_token_of_which_nothing_but_rounding_remains_is_judged_by_the_size_of_the_others() -> None:
    of = layout("bfloat16")
    tiny = pieces(of, [], token=TOKENS - 1, factor=1e-4)
    assert compared(of, pieces(of, [], token=TOKENS - 1, factor=-1e-4), tiny).verdict() is Verdict.AGREED
    assert compared(of, pieces(of, []), tiny).verdict() is Verdict.DISAGREED


def test_another_prompts_kv_and_none_at_all_disagree() -> None:
    of = layout("bfloat16")
    own = pieces(of, [])
    zeros = [KVPiece(piece.range, memoryview(bytes(piece.keys.nbytes)), memoryview(bytes(piece.values.nbytes))) for piece in own]
    swapped = [KVPiece(piece.range, piece.values, piece.keys) for piece in own]
    for theirs in (zeros, swapped, []):
        assert compared(of, theirs, own).verdict(0.5) is Verdict.DISAGREED


def test_bytes_that_are_no_numbers_agree_with_themselves_only() -> None:
    of = layout("bfloat16")
    own = pieces(of, [])
    nan = [KVPiece(piece.range, memoryview(b"\xff" * piece.keys.nbytes), piece.values) for piece in own]
    assert compared(of, nan, nan).verdict() is Verdict.AGREED
    for theirs, ours in ((nan, own), (own, nan)):
        assert compared(of, theirs, ours).verdict(1e9) is Verdict.DISAGREED


def test_a_state_that_differs_is_a_lie_among_like_processors_and_unknown_among_unlike_ones() -> None:
    of = layout("float32", state_bytes=12)
    theirs = pieces(of, [], state=b"another stat")
    assert compared(of, theirs, pieces(of, [])).verdict() is Verdict.DISAGREED
    assert compared(of, theirs, pieces(of, [], noise=1e-4)).verdict() is Verdict.UNKNOWN
