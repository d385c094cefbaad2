"""Attention function that transformers' model classes call by its registered name."""

from typing import Any

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface

from prfaas.engine.decode_cache import Ragged
from prfaas.engine.prefill_cache import PrefillCache
from prfaas.kvcache.layout import LayerKind

ATTENTION = "prfaas"

# What scaled_dot_product_attention calls on a CPU; only this one also returns the logsumexp, [rows, heads, tokens].
_flash_on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor | Ragged,
    value: torch.Tensor | Ragged,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Takes `query` as [rows, heads, tokens, key width]. Returns [rows, tokens, heads, value width]."""
    if isinstance(key, Ragged) or isinstance(value, Ragged):
        assert isinstance(key, Ragged) and isinstance(value, Ragged)
        return _ragged(query, key, value, scaling), None
    value_dim = value.shape[3]
    query, key, value = _as_wide(query, key, value)
    if attention_mask is not None:
        output = scaled_dot_product_attention(_grouped(query, key), key, value, attn_mask=attention_mask, scale=scaling)
        output = output.reshape(query.shape)
    else:
        output = (causal_on_cpu if query.device.type == "cpu" else causal_on_gpu)(query, key, value, scaling)
    return output[..., :value_dim].transpose(1, 2).contiguous(), None


def _as_wide(*states: torch.Tensor) -> list[torch.Tensor]:
    """Returns the states as wide as the widest of them, for kernels that want keys and values alike. Zeros change no sum."""
    widest = max(each.shape[3] for each in states)
    return [each if each.shape[3] == widest else pad(each, (0, widest - each.shape[3])) for each in states]


def causal_on_gpu(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    """Attention of a chunk that sees all earlier ones. Flash attention on a GPU aligns the causal diagonal with the last key."""
    causal = causal_lower_right(query.shape[2], key.shape[2])
    return scaled_dot_product_attention(query, key, value, attn_mask=causal, scale=scaling, enable_gqa=True)


def causal_on_cpu(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    """Attention of a chunk that sees all earlier ones.

    The CPU's flash kernel aligns its causal diagonal with the first key, and loses a tenth of its speed to any mask. So the
    chunk attends once to itself and once, unmasked, to what precedes it. With L the logsumexp of a part's scores, softmax over
    both parts is the mean of the two outputs, weighted by exp(L)."""
    past_tokens = key.shape[2] - query.shape[2]
    own, own_logsumexp = _flash_on_cpu(query, key[:, :, past_tokens:], value[:, :, past_tokens:], is_causal=True, scale=scaling)
    if past_tokens == 0:
        return own  # type: ignore[no-any-return]
    past, past_logsumexp = _flash_on_cpu(
        _grouped(query, key), key[:, :, :past_tokens], value[:, :, :past_tokens], is_causal=False, scale=scaling
    )
    own_weight = torch.sigmoid(own_logsumexp - past_logsumexp.reshape(own_logsumexp.shape)).unsqueeze(-1)
    return past.reshape(query.shape).float().lerp(own.float(), own_weight).to(query.dtype)  # type: ignore[no-any-return]


def _grouped(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Returns [rows, kv_heads, heads_per_kv_head * tokens, head_dim]: query heads of one KV head stand as if they were tokens.

    One pass over keys and values then serves them all."""
    return query.reshape(query.shape[0], key.shape[1], -1, query.shape[3])


def _ragged(query: torch.Tensor, key: Ragged, value: Ragged, scaling: float) -> torch.Tensor:
    """Attention of one token per row. A call per row is as fast here as a padded one, and needs neither padding nor copies."""
    rows, heads, _, _ = query.shape
    grouped = _grouped(query, key.rows[0])
    outputs = []
    for row in range(rows):
        row_query, row_key, row_value = _as_wide(grouped[row : row + 1], key.rows[row], value.rows[row])
        outputs.append(scaled_dot_product_attention(row_query, row_key, row_value, scale=scaling))
    return torch.cat(outputs).view(rows, 1, heads, -1)[..., : value.rows[0].shape[3]]


def sliding_mask(cache: PrefillCache, heads_per_kv_head: int) -> torch.Tensor | None:
    """Returns what is added to a chunk's scores in sliding layers: 0 or -inf, [1, 1, heads_per_kv_head * chunk, visible].

    None where no token has left the window: plain causal attention is right then. All sliding layers of a chunk share it."""
    layer = next(index for index, spec in enumerate(cache.layout.layers) if spec.kind is LayerKind.SLIDING)
    window_tokens = cache.layout.layers[layer].window_tokens
    first = cache.first_position(layer)
    if cache.end - first <= window_tokens:
        return None
    queries = torch.arange(cache.start, cache.end, device=cache.device)[:, None]
    keys = torch.arange(first, cache.end, device=cache.device)[None, :]
    hidden = (keys > queries) | (keys <= queries - window_tokens)
    mask = torch.zeros(hidden.shape, dtype=cache.dtype, device=cache.device).masked_fill_(hidden, -torch.inf)
    return mask.repeat(heads_per_kv_head, 1)[None, None]


AttentionInterface.register(ATTENTION, attention)
