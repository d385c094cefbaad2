"""Our attention function, which transformers' model classes call by its registered name."""

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from prfaas.engine.decode_cache import Ragged
from prfaas.engine.prefill_cache import PrefillCache
from prfaas.kvcache.layout import LayerKind

ATTENTION = "prfaas"


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor | Ragged,
    value: torch.Tensor | Ragged,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """`query` is [rows, heads, tokens, head_dim]; returns [rows, tokens, heads, head_dim]."""
    if isinstance(key, Ragged) or isinstance(value, Ragged):
        assert isinstance(key, Ragged) and isinstance(value, Ragged)
        return _ragged(query, key, value, scaling), None
    if attention_mask is None:
        return sdpa_attention_forward(module, query, key, value, None, scaling=scaling)
    return _chunk(query, key, value, attention_mask, scaling), None


def _chunk(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scaling: float) -> torch.Tensor:
    """A chunk that sees earlier ones. The bits are those of transformers' own sdpa function, which repeats keys and values for
    every query head; here the heads that share a KV head are put one behind the other as if they were tokens."""
    rows, heads, tokens, head_dim = query.shape
    grouped = query.reshape(rows, key.shape[1], -1, head_dim)
    output = scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scaling)
    return output.view(rows, heads, tokens, head_dim).transpose(1, 2).contiguous()


def _ragged(query: torch.Tensor, key: Ragged, value: Ragged, scaling: float) -> torch.Tensor:
    """One token per row. Row by row is as fast as one padded call here, and needs neither padding nor copies.

    The query heads that share a KV head are put where tokens would be: one pass over keys and values serves them all."""
    rows, heads, _, head_dim = query.shape
    grouped = query.reshape(rows, key.rows[0].shape[1], -1, head_dim)
    outputs = [
        scaled_dot_product_attention(grouped[row : row + 1], key.rows[row], value.rows[row], scale=scaling) for row in range(rows)
    ]
    return torch.cat(outputs).view(rows, 1, heads, head_dim)


def chunk_mask(cache: PrefillCache, kind: LayerKind, heads_per_kv_head: int) -> torch.Tensor | None:
    """What is added to the scores of the current chunk: 0 or -inf, [1, 1, heads_per_kv_head * chunk, visible]; None where plain
    causal will do. Made once per chunk, used by every layer of the kind.

    Plain causal is chosen exactly where transformers chooses it, so that the same bits come out."""
    layer = next(index for index, spec in enumerate(cache.layout.layers) if spec.kind is kind)
    window_tokens = cache.layout.layers[layer].window_tokens
    first = cache.first_position(layer)
    starts_or_is_one = cache.start == 0 or cache.end - cache.start == 1
    if starts_or_is_one and (kind is LayerKind.FULL or cache.end - first < window_tokens):
        return None
    queries = torch.arange(cache.start, cache.end, device=cache.device)[:, None]
    keys = torch.arange(first, cache.end, device=cache.device)[None, :]
    hidden = keys > queries
    if kind is LayerKind.SLIDING:
        hidden |= keys <= queries - window_tokens
    mask = torch.zeros(hidden.shape, dtype=cache.dtype, device=cache.device).masked_fill_(hidden, -torch.inf)
    return mask.repeat(heads_per_kv_head, 1)[None, None]


AttentionInterface.register(ATTENTION, attention)
