"""A model in memory, as transformers' class, after all checks that can be made before and while it is loaded."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import transformers

from prfaas.engine.attention import ATTENTION
from prfaas.engine.free_memory import free_bytes
from prfaas.engine.latent_attention import expand_row_by_row
from prfaas.engine.model_config import ModelConfig, read_config
from prfaas.engine.model_directory import ModelFiles, WeightsError
from prfaas.engine.packed_linear import PackedLinear, can_pack, replace_linears
from prfaas.engine.shards import memory_bytes, shards_of, states_of, weights_digest
from prfaas.engine.wide_linear import WideLinear, should_widen

_ADAPTER = "adapter_config.json"
_SHOWN = 3
"""Tensors that an error names."""


class LoadedModel(NamedTuple):
    model: Any
    """Instance of the configuration's class of transformers, which calls our attention."""
    config: ModelConfig
    weights_xxh3_128: str


def load_model(files: ModelFiles, dtype: str, device: torch.device) -> LoadedModel:
    """Loads the weights in `dtype`, or, where that is `auto`, in their own. Raises WeightsError, UnservableModelError."""
    config = read_config(files.directory, dtype)
    if (files.directory / _ADAPTER).exists():
        raise WeightsError(f"{files.directory} holds an adapter ({_ADAPTER}); expected is a model that it has been merged into")
    shards = shards_of(files.directory)
    torch_dtype: torch.dtype = getattr(torch, config.layout.dtype)
    _check_memory(files, memory_bytes(shards, torch_dtype.itemsize), device)
    before = states_of(shards)
    digest = weights_digest(files, shards)
    model = _from_pretrained(files, config, torch_dtype)
    if states_of(shards) != before:
        raise WeightsError(f"the weights in {files.directory} changed while they were loaded; start again")
    model.to(device)
    expand_row_by_row(model)
    if can_pack(torch_dtype, device):
        replace_linears(model, PackedLinear)
    elif should_widen(torch_dtype, device):
        replace_linears(model, WideLinear)
    return LoadedModel(model, config, digest)


def _from_pretrained(files: ModelFiles, config: ModelConfig, dtype: torch.dtype) -> Any:
    """Raises WeightsError unless the weights are exactly those that the configuration describes."""
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # it reports at length what is refused below
    try:
        model, report = getattr(transformers, config.class_name).from_pretrained(
            files.directory,
            config=config.transformers,
            dtype=dtype,
            attn_implementation=ATTENTION,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:  # whatever a class raises for values that do not fit together
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WeightsError(f"transformers cannot load the model in {files.directory}: {reason}") from error
    mismatched = [f"{name} {list(found)} instead of {list(expected)}" for name, found, expected in report["mismatched_keys"]]
    problems = [
        f"{what} {_listed(sorted(names))}"
        for what, names in (
            ("wrong shapes:", mismatched),
            ("missing:", report["missing_keys"]),
            ("not in the class:", report["unexpected_keys"]),
        )
        if names
    ]
    if problems:
        raise WeightsError(f"the weights in {files.directory} are not those of its configuration. {'; '.join(problems)}")
    return model


def _check_memory(files: ModelFiles, needed_bytes: int, device: torch.device) -> None:
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_bytes()
    if free is not None and needed_bytes > free:
        where = "this host has" if device.type == "cpu" else f"{device} has"
        raise WeightsError(
            f"the weights in {files.directory} take {needed_bytes / 1e9:.2f} GB of memory, and {where} {free / 1e9:.2f} GB free"
        )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
