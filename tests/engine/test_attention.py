"""A chunk's attention against its definition, computed in double precision."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prfaas.engine.attention import attention, causal_on_cpu, causal_on_gpu, sliding_mask
from prfaas.engine.decode_cache import Ragged
from prfaas.engine.prefill_cache import PrefillCache
from prfaas.kvcache.layout import KVLayout, LayerKind, LayerSpec
from tests.budget import examples

SCALING = 0.3
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 0.02}
"""Absolute, for outputs whose size is about 1."""


def defined(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window_tokens: int) -> torch.Tensor:
    """The last query is at the last key; each sees itself and the window_tokens - 1 before it."""
    heads_per_kv_head = query.shape[1] // key.shape[1]
    scores = query.double() @ key.double().repeat_interleave(heads_per_kv_head, 1).transpose(2, 3) * SCALING
    distance = (torch.arange(query.shape[2]) + key.shape[2] - query.shape[2])[:, None] - torch.arange(key.shape[2])
    scores.masked_fill_((distance < 0) | (distance >= window_tokens), -torch.inf)
    return scores.softmax(-1) @ value.double().repeat_interleave(heads_per_kv_head, 1)


def states(tokens: int, past_tokens: int, kv_heads: int, group: int, dtype: torch.dtype, seed: int) -> list[torch.Tensor]:
    """Query, key, value; the latter two with room behind them, as a full layer's buffer has."""
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(1, kv_heads * group, tokens, 16, generator=generator, dtype=dtype)
    key, value = torch.randn(2, 1, kv_heads, past_tokens + tokens + 3, 16, generator=generator, dtype=dtype)[..., :-3, :]
    return [query, key, value]


@given(
    tokens=st.integers(1, 70),
    past_tokens=st.integers(0, 150) | st.just(700),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=examples(50))
@pytest.mark.parametrize("causal", [causal_on_cpu, causal_on_gpu])
@torch.inference_mode()
def test_a_chunk_sees_itself_and_all_before_it(
    causal: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor],
    tokens: int,
    past_tokens: int,
    kv_heads: int,
    group: int,
    dtype: torch.dtype,
    seed: int,
) -> None:
    query, key, value = states(tokens, past_tokens, kv_heads, group, dtype, seed)
    output = causal(query, key, value, SCALING)
    assert output.dtype is dtype
    expected = defined(query, key, value, window_tokens=past_tokens + tokens)
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=ROUNDING[dtype])


@pytest.mark.parametrize(("key_dim", "value_dim"), [(16, 12), (12, 16)])
@pytest.mark.parametrize("past_tokens", [0, 40])
@torch.inference_mode()
def test_values_may_be_narrower_and_wider_than_keys(key_dim: int, value_dim: int, past_tokens: int) -> None:
    query, key, value = states(30, past_tokens, 2, 2, torch.float32, 5)
    query, key, value = query[..., :key_dim], key[..., :key_dim], value[..., :value_dim]
    output, _ = attention(torch.nn.Module(), query, key, value, None, SCALING)
    assert output.shape == (1, 30, 4, value_dim)
    expected = defined(query, key, value, window_tokens=past_tokens + 30)
    torch.testing.assert_close(output.transpose(1, 2).double(), expected, rtol=0, atol=1e-5)
    last, _ = attention(torch.nn.Module(), query[:, :, -1:], Ragged([key]), Ragged([value]), None, SCALING)
    torch.testing.assert_close(last.transpose(1, 2).double(), expected[:, :, -1:], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_a_part_whose_scores_are_far_above_the_others_is_all_that_counts() -> None:
    query, key, value = states(4, 8, 1, 1, torch.float32, 0)
    for part in (slice(0, 8), slice(8, 12)):
        loud = key.clone()
        loud[:, :, part] *= 1e4
        output = causal_on_cpu(query, loud, value, SCALING)
        torch.testing.assert_close(output.double(), defined(query, loud, value, 12), rtol=0, atol=1e-5)


@given(start=st.integers(0, 40), tokens=st.integers(1, 40), window_tokens=st.integers(2, 20), group=st.integers(1, 3))
@settings(max_examples=examples(50))
@torch.inference_mode()
def test_a_chunk_of_a_sliding_layer_sees_its_window(start: int, tokens: int, window_tokens: int, group: int) -> None:
    spec = LayerSpec(kind=LayerKind.SLIDING, kv_heads=2, head_dim=16, window_tokens=window_tokens)
    layout = KVLayout(dtype="float32", layers=(spec,))
    cache = PrefillCache(layout, start + tokens, torch.float32, torch.device("cpu"), lambda _: None)
    cache.end = start
    cache.begin_chunk(start, start + tokens)
    query, key, value = states(tokens, start - cache.first_position(0), 2, group, torch.float32, start)
    output, _ = attention(torch.nn.Module(), query, key, value, sliding_mask(cache, group), SCALING)
    torch.testing.assert_close(output.transpose(1, 2).double(), defined(query, key, value, window_tokens), rtol=0, atol=1e-5)
