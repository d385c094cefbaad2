"""Blocks of a prompt brought back from the lower tier, as many as are sooner read than computed."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from prfaas.kvcache.block import Block
from prfaas.kvcache.block_pool import BlockPool
from prfaas.kvcache.lower_tier import LowerTier


class ReadBack(NamedTuple):
    """Part of a cached prefix that came from the lower tier."""

    tokens: int
    """Tokens by which the prefix grew."""
    size_bytes: int
    saved_s: float
    """Predicted time to compute these tokens, less that to read what they took."""


def resumable_blocks(cache: BlockPool, chain: Sequence[Block]) -> int:
    """Returns the number of a chain's blocks after which the prompt can be resumed."""
    count = len(chain)
    while count and not cache.can_resume_after(chain[count - 1]):
        count -= 1
    return count


def read_back(
    cache: BlockPool,
    lower: LowerTier,
    hashes: Sequence[int],
    proofs: Sequence[bytes],
    proof_of: Callable[[int], bytes],
    chain: list[Block],
) -> ReadBack:
    """Extends `chain`, the pinned blocks of a prompt, by what is worth reading. `proofs` are the lower tier's, `proof_of` the
    pool's. What turns out to be damaged is left out, and the rest weighed again."""
    before = resumable_blocks(cache, chain)
    size_bytes = 0
    spent_s = 0.0
    while (end := _worth_reading(cache, lower, hashes, chain)) > resumable_blocks(cache, chain):
        checkpoint = None
        if cache.checkpoint_spacing and (end > len(chain) or chain[end - 1].checkpoint is None):
            checkpoint = lower.read(hashes[end - 1], proofs[end - 1], checkpoint=True)
            if checkpoint is None:
                continue
        for index in range(len(chain), end):
            part = lower.read(hashes[index], proofs[index], checkpoint=False)
            if part is None:
                break
            size_bytes += part.size_bytes
            spent_s += lower.read_s(part.size_bytes)
            block = cache.store(hashes[index], chain[-1] if chain else None, proof_of(index), part, "")
            if block is None:  # no room
                return _found(cache, chain, before, size_bytes, spent_s)
            chain.append(block)
        else:
            if checkpoint is not None:
                size_bytes += checkpoint.size_bytes
                spent_s += lower.read_s(checkpoint.size_bytes)
                if not cache.store_checkpoint(chain[end - 1], checkpoint):
                    break
    return _found(cache, chain, before, size_bytes, spent_s)


def _found(cache: BlockPool, chain: Sequence[Block], before: int, size_bytes: int, spent_s: float) -> ReadBack:
    start, end = before * cache.block_tokens, resumable_blocks(cache, chain) * cache.block_tokens
    return ReadBack(end - start, size_bytes, (cache.compute_s(start, end) if end > start else 0.0) - spent_s)


def _worth_reading(cache: BlockPool, lower: LowerTier, hashes: Sequence[int], chain: Sequence[Block]) -> int:
    """Returns the number of blocks after which the prompt is resumed soonest."""
    best = resumable_blocks(cache, chain)
    saved_s = cache.compute_s(0, best * cache.block_tokens) if best else 0.0
    spent_s = 0.0
    for index, hash in enumerate(hashes):
        if index >= len(chain):
            size_bytes = lower.readable_bytes(hash, checkpoint=False)
            if not size_bytes:
                break
            spent_s += lower.read_s(size_bytes)
        in_all_s = spent_s
        if cache.checkpoint_spacing and (index >= len(chain) or chain[index].checkpoint is None):
            size_bytes = lower.readable_bytes(hash, checkpoint=True)
            if not size_bytes:
                continue
            in_all_s += lower.read_s(size_bytes)
        gain_s = cache.compute_s(0, (index + 1) * cache.block_tokens) - in_all_s
        if gain_s > saved_s:
            best, saved_s = index + 1, gain_s
    return best
