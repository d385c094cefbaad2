"""Cached prefix that another worker asks for, by hashes and proofs of its blocks: this one does not have the tokens.

What a hash finds in memory is proved by the tokens that it lies there with, and on disk by the file's head: both must give the
proof that came. So only who knows tokens and scope gets their KV.
"""

import hmac
from collections.abc import Sequence
from typing import Self

from prfaas.kvcache.block import Block, Part
from prfaas.kvcache.blocks import next_proof, proof_root
from prfaas.kvcache.prefix_cache import PrefixCache


class HeldPrefix:
    """Belongs to the pool's thread. Its blocks in memory are in use until `release`."""

    def __init__(self, cache: PrefixCache, hashes: Sequence[int], proofs: Sequence[bytes], chain: list[Block]) -> None:
        self._cache = cache
        self._hashes = hashes
        self._proofs = proofs
        self._chain = chain
        last = chain[-1].checkpoint if len(chain) == len(hashes) else None
        # Referred to from now on: a spare one may be evicted at any moment.
        self._checkpoint = None if last is None else Part(last.pieces, last.size_bytes)

    @classmethod
    def find(cls, cache: PrefixCache, hashes: Sequence[int], proofs: Sequence[bytes], first_block: int) -> Self | None:
        """Returns the prefix if all blocks from `first_block` on, and what a prefill that goes on behind it needs beside, are
        held, each made here."""
        chain = _proved(cache, hashes, proofs)
        for block in chain:
            cache.pin_block(block)
        found = cls(cache, hashes, proofs, chain)
        if found._is_whole(first_block):
            return found
        found.release()
        return None

    def block(self, index: int) -> Part | None:
        """Returns a block of the prefix; None when it could not be read after all."""
        if index < len(self._chain):
            block = self._chain[index]
            return Part(block.pieces, block.size_bytes)
        lower = self._cache.lower
        return None if lower is None else lower.read(self._hashes[index], self._proofs[index], checkpoint=False)

    def checkpoint(self) -> Part | None:
        """Returns windows and states at the prefix's end, empty in a model without; None when they could not be read."""
        if not self._cache.checkpoint_spacing:
            return Part((), 0)
        lower = self._cache.lower
        if self._checkpoint is not None or lower is None:
            return self._checkpoint
        return lower.read(self._hashes[-1], self._proofs[-1], checkpoint=True)

    def release(self) -> None:
        chain, self._chain = self._chain, []
        self._cache.release(chain)

    def _is_whole(self, first_block: int) -> bool:
        lower = self._cache.lower
        rest = self._hashes[max(first_block, len(self._chain)) :]
        if rest and (lower is None or not all(lower.readable_bytes(hash, checkpoint=False) for hash in rest)):
            return False
        if not self._cache.checkpoint_spacing or self._checkpoint is not None:
            return True
        return lower is not None and lower.readable_bytes(self._hashes[-1], checkpoint=True) > 0


def _proved(cache: PrefixCache, hashes: Sequence[int], proofs: Sequence[bytes]) -> list[Block]:
    """Returns the first blocks in memory whose tokens and scope are those that were asked for."""
    chain: list[Block] = []
    proof = b""
    token_bytes = 4 * cache.block_tokens
    for hash, expected in zip(hashes, proofs, strict=True):
        block = cache.block(hash)
        if block is None or block.maker or block.parent is not (chain[-1] if chain else None):
            break
        tokens = block.proof[-token_bytes:]
        if not chain:
            proof = proof_root(cache.block_tokens, block.proof[:-token_bytes])
        proof = next_proof(proof, tokens, cache.hash_key)
        if not hmac.compare_digest(proof, expected):
            break
        chain.append(block)
    return chain
