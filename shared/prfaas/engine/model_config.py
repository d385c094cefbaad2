"""A model's configuration as transformers understands it, once the class is known to be served. Needs transformers, not torch."""

from pathlib import Path
from typing import Any, NamedTuple

import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from prfaas.engine.model_directory import config_of
from prfaas.engine.model_layout import CachePlaces, layout_of, places_of
from prfaas.engine.served_classes import UnservableModelError, Windows, check_class, check_settings
from prfaas.kvcache.layout import KVLayout

DTYPES = ("bfloat16", "float32")
AUTO = "auto"


class ModelConfig(NamedTuple):
    """Configuration of a model that can be served."""

    class_name: str
    windows: Windows
    transformers: Any
    layout: KVLayout
    places: CachePlaces


def read_config(directory: Path, dtype: str) -> ModelConfig:
    """Reads the configuration. `dtype` may be AUTO: that of the weights. Raises WeightsError, UnservableModelError."""
    of_file = config_of(directory)
    windows = check_class(of_file)
    name: str = of_file["architectures"][0]
    try:
        config = transformers.AutoConfig.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # whatever a wrong value makes transformers and its checks raise
        reason = " ".join(str(error).split())
        raise UnservableModelError(f"transformers does not take the configuration in {directory}: {reason}") from error
    if MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type) != name:
        raise UnservableModelError(f"`model_type` is {config.model_type!r}, which is not that of the class {name}")
    check_settings(name, config)
    layout = layout_of(config, windows, _dtype(config, dtype))
    return ModelConfig(name, windows, config, layout, places_of(config, windows))


def _dtype(config: Any, asked: str) -> str:
    if asked != AUTO:
        return asked
    found = str(config.dtype or "none").removeprefix("torch.")
    if found not in DTYPES:
        raise UnservableModelError(f"the weights' dtype is {found}; set `engine.dtype` to one of {', '.join(DTYPES)}")
    return found
