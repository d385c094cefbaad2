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
PROOF_BYTES = 32


def block_hashes(token_ids: Sequence[int], block_tokens: int, key: bytes = b"", scope: str = "") -> "array[int]":
    """One 64-bit hash per whole block, each chained to the one before it, so that equal hashes mean equal prefixes of one scope:
    those who share cached prefixes. Messages carry them packed, as little-endian uint64. `key`: at most 64 bytes that all
    gateways and workers share; empty: none."""
    packed = memoryview(array("I", token_ids)).cast("B")
    block_bytes = 4 * block_tokens
    hashes = array("Q")
    parent = block_tokens  # other block sizes never meet
    if scope:
        root = hashlib.blake2b(proof_root(block_tokens, scope.encode()), digest_size=HASH_BYTES, key=key, person=b"scope")
        parent = int.from_bytes(root.digest(), "little")
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


def block_proofs(token_ids: Sequence[int], block_tokens: int, key: bytes = b"", scope: str = "") -> list[bytes]:
    """One 256-bit digest per whole block, chained like the hashes. They stand for the tokens where those must not: who does not
    have the key cannot try whether a prompt begins with a text that it guesses."""
    packed = memoryview(array("I", token_ids)).cast("B")
    block_bytes = 4 * block_tokens
    proofs = []
    proof = proof_root(block_tokens, scope.encode())
    for end in range(block_bytes, len(packed) + 1, block_bytes):
        proof = next_proof(proof, packed[end - block_bytes : end], key)
        proofs.append(proof)
    return proofs


def proof_root(block_tokens: int, scope: bytes) -> bytes:
    """Returns what the proof of a prompt's first block is chained to."""
    return block_tokens.to_bytes(HASH_BYTES, "little") + scope


def next_proof(before: bytes, packed_tokens: bytes | memoryview, key: bytes) -> bytes:
    """Returns the proof of a block, from that of the block before it and its own tokens, packed."""
    digest = hashlib.blake2b(before, digest_size=PROOF_BYTES, key=key, person=b"proof")
    digest.update(packed_tokens)
    return digest.digest()


def pack_flags(flags: Iterable[bool]) -> bytes:
    """Returns one bit for each, from the lowest of the first byte on; empty when none is set."""
    packed = bytearray()
    for index, flag in enumerate(flags):
        if not index % 8:
            packed.append(0)
        packed[-1] |= flag << index % 8
    return bytes(packed) if any(packed) else b""


def is_flagged(packed: bytes, index: int) -> bool:
    """Tells whether a bit is set; those beyond the end are not."""
    return index // 8 < len(packed) and bool(packed[index // 8] >> index % 8 & 1)


def pack_hashes(hashes: Iterable[int]) -> bytes:
    return array("Q", hashes).tobytes()


def unpack_hashes(packed: bytes) -> "array[int]":
    """Raises ValueError when the bytes are not whole hashes."""
    if len(packed) % HASH_BYTES:
        raise ValueError(f"packed block hashes are {HASH_BYTES} bytes each, but {len(packed)} bytes came")
    return array("Q", packed)
