"""Sampling of requests that do not say it: what a model's generation_config.json says, as vLLM takes it over."""

from typing import Any, Final

import msgspec

from prfaas_gateway.openai.types import GenerationRequest, MinP, RepetitionPenalty, Temperature, TokenCount, TopK, TopP

_NO_SAMPLING: Final = frozenset({
    "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "transformers_version", "use_cache",
    "cache_implementation", "cache_config", "output_attentions", "output_hidden_states", "output_scores", "output_logits",
    "return_dict_in_generate", "trust_remote_code", "_from_model_config", "_commit_hash",
})  # fmt: skip
"""Settings that change no token of an answer, or that are taken elsewhere."""
_NEUTRAL: Final = {
    "do_sample": True, "num_beams": 1, "num_beam_groups": 1, "num_return_sequences": 1, "length_penalty": 1, "typical_p": 1,
    "encoder_repetition_penalty": 1,
}  # fmt: skip
"""Values of settings that ask for what is done anyway; of all others these are null, false and 0."""


class SamplingDefaults(msgspec.Struct, frozen=True, kw_only=True):
    """Values for requests that do not say; None: as OpenAI has it."""

    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    repetition_penalty: RepetitionPenalty | None = None
    max_tokens: TokenCount | None = msgspec.field(default=None, name="max_new_tokens")
    """Bound on the length of answers whose requests say none."""

    def left_to_model(self, request: GenerationRequest, default_max_tokens: int) -> dict[str, int | float]:
        """Returns the values that decide something of a request, by its fields. `default_max_tokens` is the length otherwise."""
        said = {name for name in self.__struct_fields__ if getattr(request, name) is not None}
        if request.max_completion_tokens is not None or (self.max_tokens or default_max_tokens) >= default_max_tokens:
            said.add("max_tokens")
        values = msgspec.structs.asdict(self)
        return {name: value for name, value in values.items() if value is not None and name not in said}


def defaults_of(generation_config: dict[str, Any]) -> tuple[SamplingDefaults, list[str]]:
    """Returns what is taken over, and the settings that are not, each as it is written with the reason."""
    names = {field.encode_name: field.type for field in msgspec.structs.fields(SamplingDefaults)}
    taken: dict[str, Any] = {}
    left: list[str] = []
    for name, value in generation_config.items():
        if name in names:
            try:
                msgspec.convert(value, names[name])
                taken[name] = value
            except msgspec.ValidationError as error:
                left.append(f"{name}={value!r:.40} ({error})")
        elif value is not None and name not in _NO_SAMPLING and value != _NEUTRAL.get(name, 0):
            left.append(f"{name}={value!r:.40} (not done here)")
    return msgspec.convert(taken, SamplingDefaults), left


def header_of(values: dict[str, int | float]) -> dict[str, str]:
    """Returns the response header that says which of a model's defaults an answer was sampled with; none where none were."""
    return {"x-prfaas-sampling-defaults": ", ".join(f"{name}={value}" for name, value in values.items())} if values else {}
