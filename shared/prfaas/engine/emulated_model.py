"""Models that need no weights: a KV geometry from a profile, and a tokenizer whose tokens are bytes."""

import os
import tempfile
from pathlib import Path

import msgspec
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from prfaas.capacity.profiles import Profile
from prfaas.kvcache.layout import KVLayout, LayerKind, LayerSpec

EOS = "<eos>"
EOS_TOKEN_ID = 256
MAX_CONTEXT_TOKENS = 1 << 18
CHAT_TEMPLATE = """\
{% if tools %}tools: {{ tools | tojson }}
{% endif %}{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\
{% for call in message['tool_calls'] or [] %}<tool_call>{{ call['function'] | tojson }}</tool_call>{% endfor %}

{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"""

_VALUE_BYTES = 2
_STATE_ALIGN_BYTES = 8


class EmulatedModel(msgspec.Struct, frozen=True, kw_only=True):
    """Geometry of a model's KV. It is the model's own, so all machines take it from the same profile."""

    kv_profile: str
    """Name of the built-in profile whose S_kv(l) the layout follows."""
    recurrent_layers: int
    full_layers: int
    """Number of layers with full attention. Each carries the bytes of several real ones."""

    def layout(self, profile: Profile, *, byte_scale: float, token_scale: float) -> KVLayout:
        """Returns a layout with total_bytes(n) = S_kv(n * token_scale) / byte_scale, as near as a line of whole values comes.

        Raises ValueError when a token would have no bytes left."""
        constant_bytes, token_bytes = kv_line(profile)
        unit_bytes = 2 * _VALUE_BYTES
        units = round(token_bytes * token_scale / byte_scale / unit_bytes)
        if units < self.full_layers:
            raise ValueError(
                f"byte-scale {byte_scale:g} leaves a token {units * unit_bytes} bytes of KV; "
                f"the {self.full_layers} layers with full attention need at least {unit_bytes} each"
            )
        full = [LayerSpec(kind=LayerKind.FULL, kv_heads=1, head_dim=part) for part in _parts(units, self.full_layers)]
        state_units = round(max(0.0, constant_bytes) / byte_scale / _STATE_ALIGN_BYTES)
        states = [
            LayerSpec(kind=LayerKind.RECURRENT, state_bytes=part * _STATE_ALIGN_BYTES)
            for part in _parts(state_units, self.recurrent_layers)
            if part
        ]
        return KVLayout(dtype="bfloat16", layers=tuple(_interleaved(states, full)))


EMULATED_MODELS = {
    "emulated-1t": EmulatedModel(kv_profile="paper-1t-h200", recurrent_layers=6, full_layers=2),
    "emulated-dense": EmulatedModel(kv_profile="minimax-m2.5-h200", recurrent_layers=0, full_layers=4),
}
"""Models by name: the paper's 1T hybrid with three recurrent layers to one of full attention, and a dense one for contrast."""


def kv_line(profile: Profile) -> tuple[float, float]:
    """Returns (bytes, bytes per token) of the straight line nearest to the profile's S_kv points by relative error."""
    weights = [1 / point.kv_bytes**2 for point in profile.prefill]
    total = sum(weights)
    mean_tokens = sum(weight * point.tokens for weight, point in zip(weights, profile.prefill, strict=True)) / total
    mean_bytes = sum(weight * point.kv_bytes for weight, point in zip(weights, profile.prefill, strict=True)) / total
    covariance = variance = 0.0
    for weight, point in zip(weights, profile.prefill, strict=True):
        covariance += weight * (point.tokens - mean_tokens) * (point.kv_bytes - mean_bytes)
        variance += weight * (point.tokens - mean_tokens) ** 2
    token_bytes = covariance / variance
    return mean_bytes - token_bytes * mean_tokens, token_bytes


def byte_tokenizer() -> Tokenizer:
    """Returns a tokenizer in which token b is byte b; token 256 ends an answer."""
    tokenizer = Tokenizer(BPE(vocab={character: byte for byte, character in enumerate(_byte_characters())}, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens([AddedToken(EOS, special=True)])
    return tokenizer


def write_tokenizer(path: Path) -> None:
    """Writes the tokenizer whole or not at all, also when several processes do it at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(byte_tokenizer().to_str())
    Path(scratch).replace(path)


def _parts(whole: int, count: int) -> list[int]:
    """Returns `whole` in `count` parts that differ by at most one."""
    return [whole * (index + 1) // count - whole * index // count for index in range(count)]


def _interleaved(states: list[LayerSpec], full: list[LayerSpec]) -> list[LayerSpec]:
    """Returns each full layer after its share of the recurrent ones, as hybrid models have them."""
    layers: list[LayerSpec] = []
    at = 0
    for spec, share in zip(full, _parts(len(states), len(full)), strict=True):
        layers += [*states[at : at + share], spec]
        at += share
    return layers


def _byte_characters() -> list[str]:
    """Returns the character that byte-level tokenizers write for each byte: printable ones themselves, others from U+0100 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
