"""KV layout of the model that a transformers configuration describes."""

from typing import Any

from prfaas.engine.served_classes import UnservableModelError, Windows
from prfaas.kvcache.layout import KVLayout, LayerKind, LayerSpec

KINDS = {"full_attention": LayerKind.FULL, "sliding_attention": LayerKind.SLIDING}


def layout_of(config: Any, windows: Windows, dtype: str) -> KVLayout:
    """Returns the layout of a model's KV. Raises UnservableModelError for layers that the torch engine cannot hold."""
    kinds = _kinds(config, windows)
    window_tokens = getattr(config, "sliding_window", None)
    if LayerKind.SLIDING in kinds and (not isinstance(window_tokens, int) or window_tokens < 2):
        raise UnservableModelError(f"`sliding_window` is {window_tokens!r}; expected are at least 2 tokens")
    spec = {
        "kv_heads": config.num_key_value_heads,
        "head_dim": getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
    }
    return KVLayout(
        dtype=dtype,
        layers=tuple(
            LayerSpec(kind=kind, **spec, window_tokens=window_tokens if kind is LayerKind.SLIDING else 0)  # type: ignore[arg-type]
            for kind in kinds
        ),
    )


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
