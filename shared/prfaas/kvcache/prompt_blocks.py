"""Blocks of one prompt: their hashes, and the proofs that a cached block holds the tokens that its hash stands for."""

from array import array
from collections.abc import Sequence
from typing import Protocol

from prfaas.kvcache.blocks import block_hashes, block_proofs


class PromptBlocks(Protocol):
    @property
    def hashes(self) -> Sequence[int]:
        """Hashes of the whole blocks, each of all tokens up to its end."""
        ...

    def proof(self, index: int) -> bytes:
        """Returns what a pool compares before it uses a block that has the hash."""
        ...

    def lower_proofs(self) -> list[bytes]:
        """Returns what stands for the tokens in a lower tier, by block."""
        ...


class TokenBlocks:
    """Blocks made from the prompt's tokens, by which they are proved."""

    def __init__(self, token_ids: Sequence[int], block_tokens: int, hash_key: bytes = b"", scope: str = "") -> None:
        self.hashes = block_hashes(token_ids, block_tokens, hash_key, scope)
        self._packed = memoryview(array("I", token_ids)).cast("B")
        self._block_bytes = 4 * block_tokens
        self._scope = scope.encode()
        self._made_from = token_ids, block_tokens, hash_key, scope

    def proof(self, index: int) -> bytes:
        tokens = bytes(self._packed[index * self._block_bytes : (index + 1) * self._block_bytes])
        return tokens if index else self._scope + tokens

    def lower_proofs(self) -> list[bytes]:
        return block_proofs(*self._made_from)
