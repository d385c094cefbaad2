"""Masks of the tokens that may come next in the rows of a batch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from prfaas.engine.protocol import DecodeRow, RowsFailedError

if TYPE_CHECKING:
    import torch


def masks_of(rows: Sequence[DecodeRow]) -> dict[int, bytes]:
    """Returns the masks of those rows that have one, by the rows' numbers. Raises RowsFailedError."""
    masks = {}
    for index, row in enumerate(rows):
        if row.allowed is not None:
            try:
                masks[index] = row.allowed()
            except Exception as error:  # what belongs to one request can only break that request
                raise RowsFailedError([index], str(error)) from error
    return masks


def allowed_ids(mask: bytes, vocabulary_tokens: int) -> list[int]:
    """Returns the tokens that may come, in order."""
    found: list[int] = np.flatnonzero(_bits(mask, vocabulary_tokens)).tolist()
    return found


def token_mask(mask: bytes, vocabulary_tokens: int) -> "torch.Tensor":
    """Returns [vocabulary] booleans."""
    import torch

    return torch.from_numpy(_bits(mask, vocabulary_tokens).astype(bool))


def _bits(mask: bytes, vocabulary_tokens: int) -> np.ndarray:
    # A mask has whole words of 32 bits.
    return np.unpackbits(np.frombuffer(mask, np.uint8), count=vocabulary_tokens, bitorder="little")
