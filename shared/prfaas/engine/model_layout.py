"""KV layout of the model that a transformers configuration describes."""

from typing import Any

from prfaas.kvcache.layout import KVLayout, LayerKind, LayerSpec

KINDS = {"full_attention": LayerKind.FULL, "sliding_attention": LayerKind.SLIDING}


def layout_of(config: Any, dtype: str) -> KVLayout:
    """Returns the layout of a model's KV. Raises ValueError for a layer type that the torch engine cannot hold."""
    types: list[str] = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    if unknown := sorted(set(types) - set(KINDS)):
        raise ValueError(f"layers of type {', '.join(unknown)} in a {config.model_type} model; known are {', '.join(KINDS)}")
    return KVLayout(
        dtype=dtype,
        layers=tuple(
            LayerSpec(
                kind=KINDS[type_],
                kv_heads=config.num_key_value_heads,
                head_dim=config.head_dim,
                window_tokens=config.sliding_window if type_ == "sliding_attention" else 0,
            )
            for type_ in types
        ),
    )
