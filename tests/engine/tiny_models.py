"""Tiny models with random weights, saved as transformers saves them, each small enough to be made in a test."""

from pathlib import Path
from typing import Any

import msgspec
import torch
import transformers

from prfaas.engine.emulated_model import EOS_TOKEN_ID, byte_tokenizer
from prfaas.engine.model_directory import CONFIG, TOKENIZER

CONTEXT_TOKENS = 512
WINDOW_TOKENS = 48
VOCABULARY = 320
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT_TOKENS,
    "bos_token_id": None,
    "pad_token_id": None,
    "eos_token_id": EOS_TOKEN_ID,
    "initializer_range": 0.2,
}
_MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_SMALL_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
_LATENT = {
    "num_key_value_heads": 4, "kv_lora_rank": 24, "q_lora_rank": 20, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8,
    "v_head_dim": 12, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "n_shared_experts": 1,
    "first_k_dense_replace": 1,
}  # fmt: skip
_LATENT_YARN = {
    "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128, "mscale": 0.7,
    "mscale_all_dim": 0.7,
}  # fmt: skip
_RECURRENT_FAMILIES = (
    "Bamba", "FalconH1", "GraniteMoeHybrid", "KimiLinear", "Lfm2", "NemotronH", "OlmoHybrid", "Qwen3Next", "Qwen3_5Text",
)  # fmt: skip
_RECURRENT_MIXED = ["linear_attention", "full_attention", "linear_attention"]
_DELTA = {
    "layer_types": _RECURRENT_MIXED, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16,
    "linear_value_head_dim": 24,
}  # fmt: skip
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 2, "mamba_d_state": 16, "mamba_chunk_size": 16}
_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip

TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "bamba": ("Bamba", {**_MAMBA, "attn_layer_indices": [1]}),
    "cohere2": ("Cohere2", {"layer_types": _MIXED, "sliding_window": WINDOW_TOKENS, "logit_scale": 0.25}),
    "deepseek-v2": ("DeepseekV2", {**_LATENT, "q_lora_rank": None, "rope_parameters": _LATENT_YARN}),
    "deepseek-v2-groups": ("DeepseekV2", {**_LATENT, "topk_method": "group_limited_greedy", "n_group": 2, "topk_group": 1}),
    "deepseek-v3": ("DeepseekV3", {**_LATENT, "n_group": 2, "topk_group": 1}),
    "deepseek-v3-wide-values": ("DeepseekV3", {**_LATENT, "n_group": 1, "topk_group": 1, "v_head_dim": 32}),
    "falcon-h1": ("FalconH1", {**_MAMBA, "mamba_rms_norm": True, "mamba_d_ssm": None, "key_multiplier": 0.5}),
    "falcon-h1-gated": (
        "FalconH1",
        {**_MAMBA, "mamba_n_heads": 4, "mamba_d_ssm": 64, "ssm_multipliers": [0.5, 1.5, 1.0, 2.0, 0.7]},
    ),
    "gemma3": ("Gemma3Text", {"layer_types": _MIXED, "sliding_window": WINDOW_TOKENS, "head_dim": 32}),
    "gemma3-capped": ("Gemma3Text", {"layer_types": _MIXED, "sliding_window": WINDOW_TOKENS, "final_logit_softcapping": 5.0}),
    "granite": ("Granite", {"logits_scaling": 4.0, "attention_multiplier": 0.2, "residual_multiplier": 0.5}),
    "granite-hybrid": (
        "GraniteMoeHybrid",
        {
            **_MAMBA, "layer_types": _RECURRENT_MIXED, "num_local_experts": 0, "attention_multiplier": 0.2, "logits_scaling": 4.0,
            "shared_intermediate_size": 96,
        },
    ),
    "granite-hybrid-moe": (
        "GraniteMoeHybrid",
        {
            **_MAMBA, **_EXPERTS, "layer_types": _RECURRENT_MIXED, "shared_intermediate_size": 48,
            "position_embedding_type": "rope",
        },
    ),
    "kimi-linear": (
        "KimiLinear",
        {
            "num_key_value_heads": 4, "kv_lora_rank": 24, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12,
            "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "layer_types": _RECURRENT_MIXED,
            "linear_num_heads": 4, "linear_head_dim": 16,
        },
    ),
    "lfm2": ("Lfm2", {"layer_types": ["conv", "full_attention", "conv"], "block_auto_adjust_ff_dim": False}),
    "llama": ("Llama", {}),
    "llama-rope-llama3-tied": ("Llama", {"rope_parameters": _LLAMA3, "tie_word_embeddings": True}),
    "llama-rope-linear-mha": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}, "num_key_value_heads": 4},
    ),
    "llama-rope-yarn": (
        "Llama",
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128}},
    ),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral-window": ("Mistral", {"sliding_window": WINDOW_TOKENS}),
    "mixtral-window": ("Mixtral", {**_EXPERTS, "sliding_window": WINDOW_TOKENS}),
    "nemotron-h": (
        "NemotronH",
        {
            "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp", "linear_attention"], "head_dim": 16,
            "mamba_num_heads": 8, "mamba_head_dim": 16, "n_groups": 2, "ssm_state_size": 16, "chunk_size": 16,
            "n_routed_experts": 4, "moe_intermediate_size": 48, "moe_shared_expert_intermediate_size": 48, "time_step_min": 1e-6,
        },
    ),
    "olmo-hybrid": ("OlmoHybrid", _DELTA),
    "olmo2": ("Olmo2", {}),
    "olmo3": ("Olmo3", {"layer_types": _MIXED, "sliding_window": WINDOW_TOKENS}),
    "phi3": ("Phi3", {"sliding_window": None}),
    "phi3-window": ("Phi3", {"sliding_window": WINDOW_TOKENS}),
    "qwen2": ("Qwen2", {}),
    "qwen2-window": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": WINDOW_TOKENS, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "qwen3-moe": ("Qwen3Moe", {**_SMALL_EXPERTS, "head_dim": 32}),
    "qwen3-moe-window": (
        "Qwen3Moe",
        {**_SMALL_EXPERTS, "use_sliding_window": True, "sliding_window": WINDOW_TOKENS},
    ),
    "qwen3-next": (
        "Qwen3Next",
        {**_DELTA, **_SMALL_EXPERTS, "head_dim": 32, "shared_expert_intermediate_size": 48, "mlp_only_layers": [0]},
    ),
    "qwen3-next-dense": ("Qwen3Next", {**_DELTA, "head_dim": 32, "mlp_only_layers": [0, 1, 2]}),
    "qwen3-5": ("Qwen3_5Text", {**_DELTA, "head_dim": 32}),
    "smollm3": ("SmolLM3", {"no_rope_layer_interval": 2}),
}  # fmt: skip
"""Prefix of the class's name and settings by the tiny model's name. All classes that are served are here."""


RECURRENT = tuple(tiny for tiny, (family, _) in TINY.items() if family in _RECURRENT_FAMILIES)
"""Tiny models that have recurrent layers."""


def class_name(tiny: str) -> str:
    return f"{TINY[tiny][0].removesuffix('Text')}ForCausalLM"


def save_tiny(directory: Path, tiny: str, dtype: str = "float32", *, shard_bytes: int | None = None) -> Path:
    """Saves the model with a tokenizer of bytes. `shard_bytes`: most bytes of one file. Returns its directory."""
    family, settings = TINY[tiny]
    return _save(directory / tiny, family, settings, dtype, shard_bytes)


def save_untested(directory: Path, family: str, settings: dict[str, Any]) -> Path:
    """Saves a model of a class that is not served."""
    return _save(directory / family, family, settings, "float32", None)


def _save(target: Path, family: str, settings: dict[str, Any], dtype: str, shard_bytes: int | None) -> Path:
    config = getattr(transformers, f"{family}Config")(**(_SIZES | settings))
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.manual_seed(1)
    model = getattr(transformers, f"{family.removesuffix('Text')}ForCausalLM")(config).to(getattr(torch, dtype))
    for name, parameter in model.named_parameters():
        if name.endswith("A_log"):
            # A slow decay: else a state forgets so fast that hardly anything shows whether it came.
            parameter.data = torch.linspace(-4, -1, parameter.numel()).view_as(parameter).to(parameter.dtype)
    model.save_pretrained(target, **({} if shard_bytes is None else {"max_shard_size": shard_bytes}))
    byte_tokenizer().save(str(target / TOKENIZER))
    return target


def change_config(directory: Path, **changes: Any) -> None:
    """Changes values of a saved configuration; None takes a key away."""
    path = directory / CONFIG
    config = msgspec.json.decode(path.read_bytes()) | changes
    path.write_bytes(
        msgspec.json.encode({key: value for key, value in config.items() if value is not None or key not in changes})
    )
