"""Block hashes: equal exactly where whole prefixes are equal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.kvcache.blocks import block_hashes, block_proofs, unpack_hashes

TOKENS = st.lists(st.integers(0, 3), max_size=40)


@given(TOKENS, TOKENS, st.integers(1, 8), st.sampled_from([b"", b"key"]))
def test_equal_hashes_are_equal_prefixes(one: list[int], other: list[int], block_tokens: int, key: bytes) -> None:
    pairs = zip(block_hashes(one, block_tokens, key), block_hashes(other, block_tokens, key), strict=False)
    for index, (first, second) in enumerate(pairs, start=1):
        end = index * block_tokens
        assert (first == second) == (one[:end] == other[:end])


def test_only_whole_blocks_have_one_and_sizes_never_meet() -> None:
    assert len(block_hashes(range(1023), 512)) == 1
    assert len(block_hashes(range(1024), 512)) == 2
    assert not set(block_hashes([7] * 64, 16)) & set(block_hashes([7] * 64, 32))


def test_without_the_key_no_hash_can_be_guessed() -> None:
    tokens = range(2048)
    keyed = set(block_hashes(tokens, 512, b"key"))
    assert len(keyed) == 4
    assert not keyed & set(block_hashes(tokens, 512)) and not keyed & set(block_hashes(tokens, 512, b"another key"))


@pytest.mark.parametrize("key", [b"", b"key"])
def test_prompts_of_two_scopes_have_no_hash_and_no_proof_in_common(key: bytes) -> None:
    hashes = [set(block_hashes(range(2048), 512, key, scope)) for scope in ("", "a", "b")]
    proofs = [set(block_proofs(range(2048), 512, key, scope)) for scope in ("", "a", "b")]
    assert len(set().union(*hashes)) == len(set().union(*proofs)) == 12
    assert block_hashes(range(2048), 512, key, "a") == block_hashes(range(2048), 512, key, "a")


@given(TOKENS, TOKENS, st.integers(1, 8))
def test_equal_proofs_are_equal_prefixes(one: list[int], other: list[int], block_tokens: int) -> None:
    pairs = zip(block_proofs(one, block_tokens, b"k"), block_proofs(other, block_tokens, b"k"), strict=False)
    for index, (first, second) in enumerate(pairs, start=1):
        assert len(first) == 32 and (first == second) == (one[: index * block_tokens] == other[: index * block_tokens])


def test_hashes_travel_packed() -> None:
    hashes = block_hashes(range(2048), 512)
    assert unpack_hashes(bytes(hashes)) == hashes
    with pytest.raises(ValueError, match="8 bytes each, but 9 bytes came"):
        unpack_hashes(bytes(9))
