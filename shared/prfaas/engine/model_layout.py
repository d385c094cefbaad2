"""KV layout of the model that a transformers configuration describes, and which of its layers caches what of it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from prfaas.engine.served_classes import UnservableModelError, Windows
from prfaas.engine.state_shape import StateShape, state_shape
from prfaas.kvcache.layout import KVLayout, LayerKind, LayerSpec

KINDS = {"full_attention": (LayerKind.FULL,), "sliding_attention": (LayerKind.SLIDING,)}
RECURRENT_KINDS: Mapping[str, tuple[LayerKind, ...]] = KINDS | {
    "linear_attention": (LayerKind.RECURRENT,),
    "conv": (LayerKind.RECURRENT,),
    "hybrid": (LayerKind.RECURRENT, LayerKind.FULL),
    "mlp": (),
    "moe": (),
}
"""Caches by the type of a layer, in the order in which it fills them, of classes that have recurrent layers."""


class CachePlaces(NamedTuple):
    """Places in the KV layout of what the model's layers cache. A layer may have none, keys and values, a state, or both."""

    kv: Mapping[int, int]
    """Layer of the layout by the model's layer, in their order."""
    states: Mapping[int, int]
    state: StateShape | None = None
    """Shape of all states; None for a model without recurrent layers."""

    @classmethod
    def of_attention(cls, layers: int) -> "CachePlaces":
        """Places of a model in which every layer has keys and values."""
        return cls(kv={layer: layer for layer in range(layers)}, states={})


class Attended(NamedTuple):
    """Shape of what each layer calls attention with."""

    kv_heads: int
    key_dim: int
    value_dim: int


def attended(config: Any) -> Attended:
    if is_latent(config):
        return Attended(config.num_attention_heads, config.qk_head_dim, config.v_head_dim)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Attended(config.num_key_value_heads, head_dim, head_dim)


def is_latent(config: Any) -> bool:
    """Tells whether attention is latent (MLA): layers cache what keys and values are made from."""
    return getattr(config, "kv_lora_rank", None) is not None


def layout_of(config: Any, windows: Windows, dtype: str) -> KVLayout:
    """Returns the layout of a model's KV. Raises UnservableModelError for layers that the torch engine cannot hold."""
    kinds = [kind for cached in _cached(config, windows) for kind in cached]
    window_tokens = getattr(config, "sliding_window", None)
    if LayerKind.SLIDING in kinds and (not isinstance(window_tokens, int) or window_tokens < 2):
        raise UnservableModelError(f"`sliding_window` is {window_tokens!r}; expected are at least 2 tokens")
    spec = _widths(config)
    specs = {
        LayerKind.FULL: LayerSpec(kind=LayerKind.FULL, **spec),
        LayerKind.SLIDING: LayerSpec(kind=LayerKind.SLIDING, **spec, window_tokens=window_tokens or 0),
    }
    if (state := state_shape(config)) is not None:
        dtype_bytes = KVLayout(dtype=dtype, layers=()).dtype_bytes
        specs[LayerKind.RECURRENT] = LayerSpec(kind=LayerKind.RECURRENT, state_bytes=state.size_bytes(dtype_bytes))
    return KVLayout(dtype=dtype, layers=tuple(specs[kind] for kind in kinds))


def places_of(config: Any, windows: Windows) -> CachePlaces:
    """Returns what `layout_of` has put where. Raises UnservableModelError."""
    kv: dict[int, int] = {}
    states: dict[int, int] = {}
    for layer, cached in enumerate(_cached(config, windows)):
        for kind in cached:
            (states if kind is LayerKind.RECURRENT else kv)[layer] = len(kv) + len(states)
    return CachePlaces(kv, states, state_shape(config) if states else None)


def _widths(config: Any) -> dict[str, int]:
    """Returns heads and widths of what a layer with attention caches per token."""
    if is_latent(config):
        # One of each for all heads: in the place of a key the latent, in that of a value the rotary part of the keys.
        return {"kv_heads": 1, "head_dim": config.kv_lora_rank, "value_dim": config.qk_rope_head_dim}
    return {"kv_heads": attended(config).kv_heads, "head_dim": attended(config).key_dim}


def _cached(config: Any, windows: Windows) -> list[tuple[LayerKind, ...]]:
    """Returns what each of the model's layers caches, in the order in which it is computed."""
    layers: int = config.num_hidden_layers
    types: list[str] | None = getattr(config, "layer_types", None)
    has_window = getattr(config, "sliding_window", None) is not None
    if windows is not Windows.BY_LAYER:
        if types is not None:
            raise UnservableModelError(
                f"`layer_types` is set, and layers of the model type {config.model_type} have windows {windows}"
            )
        if has_window and windows is Windows.NEVER:
            raise UnservableModelError(
                f"`sliding_window` is {config.sliding_window}, and layers of the model type {config.model_type} have no windows"
            )
        return [(LayerKind.SLIDING if has_window else LayerKind.FULL,)] * layers
    if types is None or len(types) != layers:
        raise UnservableModelError(f"`layer_types` names {len(types or [])} layers of {layers}")
    known = KINDS if state_shape(config) is None else RECURRENT_KINDS
    if unknown := sorted(set(types) - set(known)):
        raise UnservableModelError(
            f"layers of type {', '.join(unknown)} in a {config.model_type} model; expected are {' and '.join(known)}"
        )
    return [known[each] for each in types]
