"""Shapes of the states that recurrent layers keep, from a configuration alone; without torch."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

_FLOAT_BYTES = 4


class StateShape(NamedTuple):
    """State that a recurrent layer keeps of one sequence: it has the same size at every length."""

    conv: tuple[int, int]
    """[channels, tokens] that the short convolution still sees, in the model's dtype."""
    recurrent: tuple[int, ...] = ()
    """Sums that the recurrence carries on, in float32 whatever the model's dtype. Empty: the layer is a convolution alone."""
    step_tokens: int = 1
    """Tokens that are computed at once: those of a chunk are filled up to whole steps."""
    step_token_bytes: int = 0
    """Memory that computing takes per token of a chunk, at most."""

    @property
    def recurrent_bytes(self) -> int:
        return _FLOAT_BYTES * math.prod(self.recurrent) if self.recurrent else 0

    def size_bytes(self, dtype_bytes: int) -> int:
        return self.recurrent_bytes + math.prod(self.conv) * dtype_bytes

    def chunk_bytes(self, chunk_tokens: int) -> int:
        """Returns the memory that computing a chunk takes in one layer."""
        return -(-chunk_tokens // self.step_tokens) * self.step_tokens * self.step_token_bytes


def state_shape(config: Any) -> StateShape | None:
    """Returns the shape of the states of a configuration's recurrent layers; None for a model type that has none."""
    known = _SHAPES.get(config.model_type)
    return None if known is None else known(config)


def _delta_rule(config: Any) -> StateShape:
    """Gated delta nets: a matrix per head, to which each token adds a correction."""
    heads, keys, values = config.linear_num_value_heads, config.linear_key_head_dim, config.linear_value_head_dim
    step_tokens = 64
    return StateShape(
        conv=(2 * config.linear_num_key_heads * keys + heads * values, config.linear_conv_kernel_dim),
        recurrent=(heads, keys, values),
        step_tokens=step_tokens,
        # Queries, keys, values and what is made of them, and three square matrices per step.
        step_token_bytes=_FLOAT_BYTES * heads * (8 * keys + 6 * values + 3 * step_tokens),
    )


def _kimi_delta(config: Any) -> StateShape:
    """Kimi's delta attention: the same with a decay per channel, and as many heads of keys as of values, all of one width."""
    heads, dim, step_tokens = config.linear_num_heads, config.linear_head_dim, 64
    return StateShape(
        conv=(3 * heads * dim, config.linear_conv_kernel_dim),
        recurrent=(heads, dim, dim),
        step_tokens=step_tokens,
        # As above, the decays beside the keys, and squares of the channels' decays.
        step_token_bytes=_FLOAT_BYTES * heads * (16 * dim + 3 * step_tokens + step_tokens * dim),
    )


def _mamba2(heads: int, head_dim: int, groups: int, state: int, kernel: int, step_tokens: int) -> StateShape:
    return StateShape(
        conv=(heads * head_dim + 2 * groups * state, kernel),
        recurrent=(heads, head_dim, state),
        step_tokens=step_tokens,
        # Input, output and the projections to and from the state by head, and five square matrices per step.
        step_token_bytes=_FLOAT_BYTES * heads * (6 * head_dim + 6 * state + 5 * step_tokens),
    )


def _mamba2_of_bamba(config: Any) -> StateShape:
    """Mamba 2 in the words of Bamba's configuration, which others have taken over."""
    heads, head_dim, groups = config.mamba_n_heads, config.mamba_d_head, config.mamba_n_groups
    return _mamba2(heads, head_dim, groups, config.mamba_d_state, config.mamba_d_conv, config.mamba_chunk_size)


def _mamba2_of_nemotron(config: Any) -> StateShape:
    heads, head_dim, groups = config.mamba_num_heads, config.mamba_head_dim, config.n_groups
    return _mamba2(heads, head_dim, groups, config.ssm_state_size, config.conv_kernel, config.chunk_size)


def _short_convolution(config: Any) -> StateShape:
    return StateShape(conv=(config.hidden_size, config.conv_L_cache), step_token_bytes=8 * _FLOAT_BYTES * config.hidden_size)


_SHAPES: dict[str, Callable[[Any], StateShape]] = {
    "bamba": _mamba2_of_bamba,
    "falcon_h1": _mamba2_of_bamba,
    "granitemoehybrid": _mamba2_of_bamba,
    "kimi_linear": _kimi_delta,
    "lfm2": _short_convolution,
    "nemotron_h": _mamba2_of_nemotron,
    "olmo_hybrid": _delta_rule,
    "qwen3_5_text": _delta_rule,
    "qwen3_next": _delta_rule,
}
"""Shapes by the `model_type` of the classes that are served."""
