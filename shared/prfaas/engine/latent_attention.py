"""Latent attention (MLA): layers cache what keys and values are made from, and make them anew for every call of attention."""

from collections.abc import Callable
from typing import Any

import torch

from prfaas.engine.decode_cache import Ragged

States = torch.Tensor | Ragged
Expand = Callable[[Any, Any], tuple[States, States]]


def expand_row_by_row(model: Any) -> None:
    """Has the model's layers take the ragged batch of a decode step too: each row is expanded for itself."""
    for module in model.modules():
        if (expand := getattr(module, "expand_kv", None)) is not None:
            module.expand_kv = _by_row(expand)


def _by_row(expand: Expand) -> Expand:
    def expand_kv(latents: States, rotary_keys: States) -> tuple[States, States]:
        """Returns keys and values of all heads. Takes a latent and the rotary part of a key, one of each for all heads."""
        if not isinstance(latents, Ragged) or not isinstance(rotary_keys, Ragged):
            return expand(latents, rotary_keys)
        rows: list[Any] = [expand(*row) for row in zip(latents.rows, rotary_keys.rows, strict=True)]
        return Ragged([keys for keys, _ in rows]), Ragged([values for _, values in rows])

    return expand_kv
