"""The prefix cache: only right tokens hit, what is in use stays, and the last block of a chain goes first."""

from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from prfaas.kvcache import prefix_cache
from prfaas.kvcache.blocks import block_hashes
from prfaas.kvcache.layout import KVPiece, LayerRange
from prfaas.kvcache.prefix_cache import PinnedPrefix, PrefixCache
from tests.budget import examples

BLOCK_TOKENS = 2
BLOCK_BYTES = 10


def pieces_of(token_ids: Sequence[int]) -> tuple[KVPiece, ...]:
    """Content that says which prefix it belongs to."""
    return (KVPiece(LayerRange(0, 0, len(token_ids)), memoryview(bytes(token_ids)), memoryview(b"")),)


def fill(prefix: PinnedPrefix, token_ids: Sequence[int], blocks: int | None = None) -> bool:
    whole = len(token_ids) // BLOCK_TOKENS if blocks is None else blocks
    while len(prefix.blocks) < whole:
        if not prefix.append(pieces_of(token_ids[: prefix.tokens + BLOCK_TOKENS]), BLOCK_BYTES):
            return False
    return True


def store(cache: PrefixCache, token_ids: Sequence[int]) -> bool:
    with cache.pin(token_ids) as prefix:
        return fill(prefix, token_ids)


def cached(cache: PrefixCache, token_ids: Sequence[int]) -> int:
    with cache.pin(token_ids) as prefix:
        for index, block in enumerate(prefix.blocks):
            assert bytes(block.pieces[0].keys) == bytes(token_ids[: (index + 1) * BLOCK_TOKENS])
        return prefix.cached_tokens


def test_the_longest_cached_prefix_in_whole_blocks_is_found() -> None:
    cache = PrefixCache(BLOCK_TOKENS, 1000)
    assert store(cache, [1, 2, 3, 4, 5])
    assert cached(cache, [1, 2, 3, 4, 5, 6]) == 4
    assert cached(cache, [1, 2, 3, 9]) == 2
    assert cached(cache, [1]) == cached(cache, [3, 4]) == cached(cache, []) == 0
    with cache.pin([1, 2, 3, 4], max_tokens=3) as prefix:
        assert prefix.cached_tokens == 2
    assert store(cache, [1, 2, 3, 9])
    assert cached(cache, [1, 2, 3, 4]) == cached(cache, [1, 2, 3, 9]) == 4
    assert len(cache) == 3


def test_the_last_block_of_the_least_recently_used_prompt_goes_first() -> None:
    cache = PrefixCache(BLOCK_TOKENS, 4 * BLOCK_BYTES)
    store(cache, [1, 1, 1, 1])
    store(cache, [2, 2, 2, 2])
    assert cached(cache, [1, 1]) == 2  # used again: but for its last block
    store(cache, [3, 3])
    assert (cached(cache, [2, 2, 2, 2]), cached(cache, [1, 1, 1, 1])) == (4, 2)
    store(cache, [4, 4])  # [3, 3] was not used since
    store(cache, [5, 5])
    assert [cached(cache, [token] * 4) for token in (5, 4, 3, 2, 1)] == [2, 2, 0, 2, 2]


def test_what_is_in_use_stays_and_leaves_no_room() -> None:
    cache = PrefixCache(BLOCK_TOKENS, 2 * BLOCK_BYTES)
    with cache.pin([1, 1, 1, 1, 1, 1]) as prefix:
        assert prefix.wants(0, 2) and not prefix.wants(0, 1) and not prefix.wants(2, 4)
        assert not fill(prefix, [1, 1, 1, 1, 1, 1])  # its own first blocks are not given up for its third
        assert prefix.tokens == 4 and not prefix.wants(4, 6)
        assert not store(cache, [2, 2])
        assert cache.pinned == 2
    assert cache.pinned == 0
    assert store(cache, [2, 2])
    assert (cached(cache, [1, 1, 1, 1]), cached(cache, [2, 2])) == (2, 2)
    assert not store(PrefixCache(BLOCK_TOKENS, BLOCK_BYTES - 1), [1, 1])


def test_an_error_while_it_is_in_use_leaves_nothing_pinned() -> None:
    cache = PrefixCache(BLOCK_TOKENS, 1000)
    with pytest.raises(ValueError, match="mid-way"), cache.pin([1, 1, 1, 1]) as prefix:
        fill(prefix, [1, 1, 1, 1], blocks=1)
        raise ValueError("mid-way")
    assert cache.pinned == 0
    assert cached(cache, [1, 1, 1, 1]) == 2


def test_two_that_store_the_same_share_it() -> None:
    cache = PrefixCache(BLOCK_TOKENS, 1000)
    with cache.pin([1, 1]) as one, cache.pin([1, 1]) as other:
        assert fill(one, [1, 1]) and fill(other, [1, 1])
        assert one.blocks == other.blocks
    cache.validate()
    assert (len(cache), cache.size_bytes) == (1, BLOCK_BYTES)


def test_other_tokens_of_the_same_hash_are_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_cache, "block_hashes", lambda token_ids, tokens, *_: list(range(len(token_ids) // tokens)))
    cache = PrefixCache(BLOCK_TOKENS, 1000)
    assert store(cache, [1, 1, 2, 2])
    assert cached(cache, [1, 1, 2, 2]) == 4
    assert cached(cache, [1, 1, 3, 3]) == 2
    assert cached(cache, [4, 4, 2, 2]) == 0
    assert not store(cache, [4, 4])  # the place is taken
    assert cached(cache, [1, 1, 2, 2]) == 4
    cache.validate()


def test_equal_last_tokens_behind_another_parent_are_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second block's own tokens and hash agree, what came before does not."""
    monkeypatch.setattr(prefix_cache, "block_hashes", lambda token_ids, *_: [token_ids[0], 99][: len(token_ids) // 2])
    cache = PrefixCache(BLOCK_TOKENS, 1000)
    store(cache, [1, 1, 5, 5])
    store(cache, [2, 2])
    assert cached(cache, [2, 2, 5, 5]) == 2


def test_changes_are_told_once_and_cancel_out() -> None:
    cache = PrefixCache(BLOCK_TOKENS, 2 * BLOCK_BYTES)
    one, two, three = ([token] * BLOCK_TOKENS for token in (1, 2, 3))
    (hash_one,), (hash_two,), (hash_three,) = (block_hashes(tokens, BLOCK_TOKENS) for tokens in (one, two, three))
    for tokens in (one, two, three):
        store(cache, tokens)
    assert cache.take_changes() == ([hash_two, hash_three], [])
    assert cache.take_changes() == ([], [])
    store(cache, one)
    assert cache.take_changes() == ([hash_one], [hash_two])


PROMPTS = st.lists(st.integers(1, 2), max_size=12)


class AnyOrder(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.cache = PrefixCache(BLOCK_TOKENS, 6 * BLOCK_BYTES)
        self.pinned: list[tuple[list[int], PinnedPrefix]] = []
        self.told: set[int] = set()

    @rule(token_ids=PROMPTS)
    def pin(self, token_ids: list[int]) -> None:
        if len(self.pinned) < 4:
            self.pinned.append((token_ids, self.cache.pin(token_ids)))

    @precondition(lambda self: self.pinned)
    @rule(data=st.data(), size_bytes=st.integers(1, 25))
    def append(self, data: st.DataObject, size_bytes: int) -> None:
        token_ids, prefix = data.draw(st.sampled_from(self.pinned))
        end = prefix.tokens + BLOCK_TOKENS
        if not prefix.wants(prefix.tokens, end) or end > len(token_ids):
            assert not prefix.append((), size_bytes)
            return
        assert prefix.append(pieces_of(token_ids[:end]), size_bytes) == (prefix.tokens == end)

    @precondition(lambda self: self.pinned)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.pinned) - 1))
        self.pinned.pop(index)[1].__exit__(None, None, None)

    @rule()
    def tell(self) -> None:
        stored, removed = self.cache.take_changes()
        assert not self.told & set(stored) and self.told >= set(removed)
        self.told = self.told - set(removed) | set(stored)
        assert len(self.told) == len(self.cache)

    @rule(token_ids=PROMPTS)
    def look(self, token_ids: list[int]) -> None:
        assert cached(self.cache, token_ids) % BLOCK_TOKENS == 0

    @invariant()
    def holds(self) -> None:
        self.cache.validate()
        assert self.cache.pinned == len({id(block) for _, prefix in self.pinned for block in prefix.blocks})
        for token_ids, prefix in self.pinned:  # what is in use is found, and is that prompt's
            assert cached(self.cache, token_ids) >= prefix.tokens


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=examples(100), stateful_step_count=40, deadline=None)
