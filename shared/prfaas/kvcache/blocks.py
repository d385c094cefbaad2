"""Names of prompt prefixes: a block is `block_tokens` tokens, and its hash covers all tokens up to its end.

Hashes find a cached prefix; they do not prove it. Before cached KV is installed, the tokens themselves are compared.

Hashes pass brokers and schedulers. Without a key, who sees them can try whether a prompt begins with a text that it guesses. With
one it sees only which prompts begin alike.
"""

import hashlib
from array import array
from collections.abc import Iterable, Sequence

import xxhash

HASH_BYTES = 8


def block_hashes(token_ids: Sequence[int], block_tokens: int, key: bytes = b"") -> "array[int]":
    """One 64-bit hash per whole block, each chained to the one before it, so that equal hashes mean equal prefixes. Messages
    carry them packed, as little-endian uint64. `key`: at most 64 bytes that all gateways and workers share; empty: none."""
    packed = memoryview(array("I", token_ids)).cast("B")
    block_bytes = 4 * block_tokens
    hashes = array("Q")
    parent = block_tokens  # other block sizes never meet
    for end in range(block_bytes, len(packed) + 1, block_bytes):
        block = packed[end - block_bytes : end]
        if key:
            keyed = hashlib.blake2b(parent.to_bytes(HASH_BYTES, "little"), digest_size=HASH_BYTES, key=key)
            keyed.update(block)
            parent = int.from_bytes(keyed.digest(), "little")
        else:
            parent = xxhash.xxh3_64_intdigest(block, parent)
        hashes.append(parent)
    return hashes


def pack_hashes(hashes: Iterable[int]) -> bytes:
    return array("Q", hashes).tobytes()


def unpack_hashes(packed: bytes) -> "array[int]":
    """Raises ValueError when the bytes are not whole hashes."""
    if len(packed) % HASH_BYTES:
        raise ValueError(f"packed block hashes are {HASH_BYTES} bytes each, but {len(packed)} bytes came")
    return array("Q", packed)
