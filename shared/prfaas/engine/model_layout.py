"""KV layout of the model that a transformers configuration describes."""

from typing import Any, NamedTuple

from prfaas.engine.served_classes import UnservableModelError, Windows
from prfaas.kvcache.layout import KVLayout, LayerKind, LayerSpec

KINDS = {"full_attention": LayerKind.FULL, "sliding_attention": LayerKind.SLIDING}


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
    kinds = _kinds(config, windows)
    window_tokens = getattr(config, "sliding_window", None)
    if LayerKind.SLIDING in kinds and (not isinstance(window_tokens, int) or window_tokens < 2):
        raise UnservableModelError(f"`sliding_window` is {window_tokens!r}; expected are at least 2 tokens")
    spec = _widths(config)
    return KVLayout(
        dtype=dtype,
        layers=tuple(
            LayerSpec(kind=kind, **spec, window_tokens=window_tokens if kind is LayerKind.SLIDING else 0)  # type: ignore[arg-type]
            for kind in kinds
        ),
    )


def _widths(config: Any) -> dict[str, int]:
    if is_latent(config):
        # One of each for all heads: in the place of a key the latent, in that of a value the rotary part of the keys.
        return {"kv_heads": 1, "head_dim": config.kv_lora_rank, "value_dim": config.qk_rope_head_dim}
    return {"kv_heads": attended(config).kv_heads, "head_dim": attended(config).key_dim}


def _kinds(config: Any, windows: Windows) -> list[LayerKind]:
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
        return [LayerKind.SLIDING if has_window else LayerKind.FULL] * layers
    if types is None or len(types) != layers:
        raise UnservableModelError(f"`layer_types` names {len(types or [])} layers of {layers}")
    if unknown := sorted(set(types) - set(KINDS)):
        raise UnservableModelError(
            f"layers of type {', '.join(unknown)} in a {config.model_type} model; expected are {' and '.join(KINDS)}"
        )
    return [KINDS[each] for each in types]
