"""Model classes that are proven to be served right, and settings that keep a model from being served; without torch."""

import math
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from prfaas.engine.model_directory import WeightsError


class UnservableModelError(WeightsError):
    """Refusal of a model that the engine would not compute right, or is not known to. The message says what of it and why."""


class Windows(StrEnum):
    """Rule by which a class of transformers gives its layers sliding windows."""

    NEVER = "never"
    ALWAYS = "in every layer, where `sliding_window` is set"
    BY_LAYER = "in the layers that `layer_types` names"


SERVED = {
    "BambaForCausalLM": Windows.BY_LAYER,
    "Cohere2ForCausalLM": Windows.BY_LAYER,
    "DeepseekV2ForCausalLM": Windows.NEVER,
    "DeepseekV3ForCausalLM": Windows.NEVER,
    "FalconH1ForCausalLM": Windows.BY_LAYER,
    "Gemma3ForCausalLM": Windows.BY_LAYER,
    "GraniteForCausalLM": Windows.NEVER,
    "GraniteMoeHybridForCausalLM": Windows.BY_LAYER,
    "KimiLinearForCausalLM": Windows.BY_LAYER,
    "Lfm2ForCausalLM": Windows.BY_LAYER,
    "LlamaForCausalLM": Windows.NEVER,
    "MistralForCausalLM": Windows.ALWAYS,
    "MixtralForCausalLM": Windows.ALWAYS,
    "NemotronHForCausalLM": Windows.BY_LAYER,
    "Olmo2ForCausalLM": Windows.NEVER,
    "Olmo3ForCausalLM": Windows.BY_LAYER,
    "OlmoHybridForCausalLM": Windows.BY_LAYER,
    "Phi3ForCausalLM": Windows.ALWAYS,
    "Qwen2ForCausalLM": Windows.BY_LAYER,
    "Qwen3ForCausalLM": Windows.BY_LAYER,
    "Qwen3MoeForCausalLM": Windows.ALWAYS,
    "Qwen3NextForCausalLM": Windows.BY_LAYER,
    "Qwen3_5ForCausalLM": Windows.BY_LAYER,
    "SmolLM3ForCausalLM": Windows.BY_LAYER,
}
"""Classes whose tokens and log-probabilities tests compare with transformers' own."""

_NESTED = "it takes more than text, and its text's settings lie in a nested `text_config`; its text part alone may be served"
REFUSED = {
    "GPT2LMHeadModel": "its positions are learned vectors, which no test has proven here",
    "GPTNeoXForCausalLM": "its layers are built in another way than those that were proven here",
    "Gemma2ForCausalLM": "it caps its attention scores softly, which the kernels here do not",
    "Gemma3ForConditionalGeneration": _NESTED,
    "Gemma3nForCausalLM": "some of its layers use the KV of others",
    "GptOssForCausalLM": "its attention sinks take part in every softmax, which the kernels here do not compute",
    "Llama4ForCausalLM": (
        "its queries are scaled by the length of the cache, which the rows of a batch do not share, "
        "and its attention in chunks is no kind of layer that the KV layout has"
    ),
    "Llama4ForConditionalGeneration": _NESTED,
    "MambaForCausalLM": "its scan of several tokens begins without the state before them: a prefill in chunks is another one",
    "Mamba2ForCausalLM": "its configuration has no `max_position_embeddings`, to which requests are held here",
    "MiniMaxForCausalLM": "its linear attention keeps its state in a cache of its own kind",
    "Mistral3ForConditionalGeneration": _NESTED,
    "RecurrentGemmaForCausalLM": "its recurrent layers keep their states in themselves, where they cannot be shipped from",
}
"""Classes that users ask for, each with the reason why it is not served."""

STATELESS_ROPES = ("default", "linear", "llama3", "yarn")
"""Variants of rotary embeddings whose angles depend on the position alone, and not on the longest one seen."""


def check_class(config: dict[str, Any]) -> Windows:
    """Returns the rule of windows of the class in a configuration as its file has it. Raises UnservableModelError."""
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or len(architectures) != 1 or not isinstance(architectures[0], str):
        raise UnservableModelError(
            f"the configuration's `architectures` is {architectures!r}; expected is the name of one class of transformers"
        )
    name = architectures[0]
    if name in REFUSED:
        raise UnservableModelError(f"the class {name} is not served: {REFUSED[name]}")
    if name not in SERVED:
        own_code = "auto_map" in config
        why = "it needs code of its own (`auto_map`), and no code of a model is run here" if own_code else "no test has proven it"
        raise UnservableModelError(f"the class {name} is not served: {why}; served are {', '.join(sorted(SERVED))}")
    for problem in _problems_of_file(config):
        raise UnservableModelError(f"this {name} is not served: {problem}")
    return SERVED[name]


def check_settings(name: str, config: Any) -> None:
    """Checks what transformers made of a configuration. Raises UnservableModelError."""
    for problem in _problems_of_settings(config):
        raise UnservableModelError(f"this {name} is not served: {problem}")


def _problems_of_file(config: dict[str, Any]) -> Iterator[str]:
    if config.get("quantization_config") is not None:
        found = config["quantization_config"]
        method = found.get("quant_method", "?") if isinstance(found, dict) else found
        yield f"`quantization_config` says that its weights are quantized ({method}); expected are plain bfloat16 or float32"
    if "text_config" in config:
        yield _NESTED


def _problems_of_settings(config: Any) -> Iterator[str]:
    for rope in _ropes(config):
        if (kind := rope.get("rope_type", "default")) not in STATELESS_ROPES:
            yield (
                f"its rotary embedding of `rope_type` {kind!r} depends on the length of the whole text, which differs between "
                f"prefill and decode; expected is one of {', '.join(STATELESS_ROPES)}"
            )
    if (cap := getattr(config, "attn_logit_softcapping", None)) is not None:
        yield f"`attn_logit_softcapping` is {cap}; the kernels here do not cap attention scores, so expected is none"
    # Nemotron-H's layers do not read theirs.
    limit = None if config.model_type == "nemotron_h" else getattr(config, "time_step_limit", None)
    if limit is not None and tuple(limit) != (0.0, math.inf):
        yield f"`time_step_limit` is {list(limit)}; its layers leave it out where one token is computed, so expected is none"
    if getattr(config, "use_bidirectional_attention", False):
        yield "`use_bidirectional_attention` is set; expected is causal attention, in which no token sees a later one"


def _ropes(config: Any) -> list[dict[str, Any]]:
    """Returns the settings of all rotary embeddings: one, or one for each kind of layer."""
    found = getattr(config, "rope_parameters", None) or {}
    return [each for each in found.values() if isinstance(each, dict)] if "rope_type" not in found else [found]
