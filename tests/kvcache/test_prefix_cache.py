"""The prefix cache: only right tokens hit, what is in use stays, the last block of a chain goes first, and no prompt is resumed
where its windows and states are not kept."""

from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from prfaas.kvcache import prompt_blocks
from prfaas.kvcache.block import Part
from prfaas.kvcache.block_pool import Tier
from prfaas.kvcache.blocks import block_hashes
from prfaas.kvcache.layout import KVLayout, KVPiece, LayerKind, LayerRange, LayerSpec
from prfaas.kvcache.pinned_prefix import PinnedPrefix
from prfaas.kvcache.prefix_cache import PrefixCache
from tests.budget import examples

BLOCK_TOKENS = 2
BLOCK_BYTES = 10


DENSE = KVLayout(dtype="bfloat16", layers=(LayerSpec(kind=LayerKind.FULL, kv_heads=1, head_dim=1),))
LAYOUT = KVLayout(
    dtype="bfloat16",
    layers=(LayerSpec(kind=LayerKind.FULL, kv_heads=1, head_dim=1), LayerSpec(kind=LayerKind.RECURRENT, state_bytes=1)),
)


def part_of(token_ids: Sequence[int], size_bytes: int = BLOCK_BYTES, layer: int = 0) -> Part:
    """Content that says which prefix it belongs to."""
    piece = KVPiece(LayerRange(layer, 0, len(token_ids)), memoryview(bytes(token_ids)), memoryview(b""))
    return Part((piece,), size_bytes)


def append(prefix: PinnedPrefix, token_ids: Sequence[int], size_bytes: int = BLOCK_BYTES) -> bool:
    """Appends what the prefix wants to keep of the next block, as an engine does."""
    start, end = prefix.tokens, prefix.tokens + BLOCK_TOKENS
    layers = {part.layer for part in prefix.kept_ranges(LAYOUT if prefix.needs_checkpoints else DENSE, start, end)}
    block, checkpoint = (part_of(token_ids[:end], size_bytes, layer) if layer in layers else None for layer in (0, 1))
    return prefix.append(block, checkpoint)


def fill(prefix: PinnedPrefix, token_ids: Sequence[int], blocks: int | None = None) -> bool:
    whole = len(token_ids) // BLOCK_TOKENS if blocks is None else blocks
    while len(prefix.blocks) < whole:
        if not append(prefix, token_ids):
            return False
    return True


def store(cache: PrefixCache, token_ids: Sequence[int]) -> bool:
    with cache.pin(token_ids) as prefix:
        return fill(prefix, token_ids)


def cached(cache: PrefixCache, token_ids: Sequence[int]) -> int:
    with cache.pin(token_ids) as prefix:
        loaded = list(prefix.loaded())
        for index, piece in enumerate(loaded[: len(prefix.blocks)]):
            assert bytes(piece.keys) == bytes(token_ids[: (index + 1) * BLOCK_TOKENS])
        states = loaded[len(prefix.blocks) :]
        assert [bytes(piece.keys) for piece in states] == [bytes(token_ids[: prefix.tokens])] * bool(
            prefix.needs_checkpoints and prefix.tokens
        )
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


def test_the_last_block_of_the_prompt_that_is_worth_least_goes_first() -> None:
    cache = PrefixCache(BLOCK_TOKENS, 4 * BLOCK_BYTES)
    store(cache, [1, 1, 1, 1])
    store(cache, [2, 2, 2, 2])
    for _ in range(3):
        assert cached(cache, [1, 1, 1, 1]) == 4  # used again
    store(cache, [3, 3])
    assert (cached(cache, [2, 2, 2, 2]), cached(cache, [1, 1, 1, 1])) == (2, 4)
    for token in range(4, 40):
        store(cache, [token, token])
    assert cached(cache, [1, 1, 1, 1]) == 0, "no credit is for ever"


def test_of_equals_the_cheaper_one_to_compute_goes_first() -> None:
    """Attention makes tokens dear that are deep in a prompt; leaves of two chains of unlike depth show it."""
    cache = PrefixCache(BLOCK_TOKENS, 4 * BLOCK_BYTES, compute_s=lambda start, end: float(end) ** 2)
    store(cache, [1, 1, 1, 1, 1, 1])
    store(cache, [2, 2])
    store(cache, [3, 3])
    assert (cached(cache, [1] * 6), cached(cache, [2, 2])) == (6, 0)


class Hybrid:
    """A cache of a model with states, and how prompts fare with it."""

    def __init__(self, capacity_blocks: int = 100, spacing: int = 4) -> None:
        self.cache = PrefixCache(1, capacity_blocks * BLOCK_BYTES, checkpoint_spacing=spacing)

    def serve(self, token_ids: Sequence[int]) -> int:
        """Prefills a prompt in blocks of one token. Returns the tokens that were not computed."""
        with self.cache.pin(token_ids) as prefix:
            for end in range(prefix.tokens + 1, len(token_ids) + 1):
                layers = {part.layer for part in prefix.kept_ranges(LAYOUT, end - 1, end)}
                block, checkpoint = (
                    part_of(token_ids[:end], BLOCK_BYTES, layer) if layer in layers else None for layer in (0, 1)
                )
                prefix.append(block, checkpoint)
        self.cache.validate()
        return prefix.cached_tokens

    def look(self, token_ids: Sequence[int]) -> int:
        with self.cache.pin(token_ids) as prefix:
            return prefix.cached_tokens


def test_a_prompt_is_resumed_at_the_last_checkpoint_within_what_it_shares() -> None:
    hybrid = Hybrid(capacity_blocks=13)  # without room for spares
    assert hybrid.serve(range(10)) == 0
    assert hybrid.look(range(10)) == 10  # where the earlier prompt ended
    assert hybrid.look([*range(10), 50, 51, 52]) == 10
    assert hybrid.look([*range(7), 60, 61]) == 4  # every fourth block has one
    assert hybrid.look([*range(3), 80]) == 0


def test_a_checkpoint_is_left_where_prompts_parted() -> None:
    hybrid = Hybrid(capacity_blocks=22, spacing=1000)
    assert hybrid.serve(range(10)) == 0
    assert hybrid.serve([*range(5), *range(60, 65)]) == 0
    assert hybrid.serve([*range(5), *range(70, 73)]) == 5


def test_spares_are_everywhere_while_there_is_room_and_the_first_to_go() -> None:
    hybrid = Hybrid()
    hybrid.serve(range(10))
    for shared in range(10):
        assert hybrid.look([*range(shared), 99]) == shared
    tight = Hybrid(capacity_blocks=20)
    tight.serve(range(10))
    assert tight.look([*range(7), 99]) == 7, "a spare that was used"
    tight.serve(range(20, 24))
    assert [tight.look([*range(shared), 99]) for shared in (10, 8, 7, 4)] == [10, 8, 7, 4], "is kept like the others"
    assert [tight.look([*range(shared), 99]) for shared in (3, 2, 1)] == [0, 0, 0], "and others are not"


def test_only_ends_at_which_a_prompt_can_be_resumed_are_announced() -> None:
    hybrid = Hybrid(capacity_blocks=13)
    hybrid.serve(range(10))
    hashes = block_hashes(range(10), 1)
    assert hybrid.cache.take_changes() == (dict.fromkeys((hashes[3], hashes[7], hashes[9]), Tier.MEMORY), [])
    hybrid.serve(range(20, 30))
    _, removed = hybrid.cache.take_changes()
    assert set(removed) == {hashes[3], hashes[7], hashes[9]} and hybrid.serve(range(10)) == 0


def test_what_lies_behind_the_last_checkpoint_goes_before_anything_else() -> None:
    hybrid = Hybrid(capacity_blocks=20, spacing=100)
    hybrid.serve(range(5))
    with hybrid.cache.pin(range(30, 40)) as prefix:  # cancelled before its end
        for end in range(1, 9):
            prefix.append(part_of(range(30, 30 + end)))
    assert hybrid.serve(range(50, 62)) == 0
    assert (hybrid.serve(range(5)), len(hybrid.cache)) == (5, 18)


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
    monkeypatch.setattr(prompt_blocks, "block_hashes", lambda token_ids, tokens, *_: list(range(len(token_ids) // tokens)))
    cache = PrefixCache(BLOCK_TOKENS, 1000)
    assert store(cache, [1, 1, 2, 2])
    assert cached(cache, [1, 1, 2, 2]) == 4
    assert cached(cache, [1, 1, 3, 3]) == 2
    assert cached(cache, [4, 4, 2, 2]) == 0
    assert not store(cache, [4, 4])  # the place is taken
    assert cached(cache, [1, 1, 2, 2]) == 4
    cache.validate()


def test_equal_prompts_of_two_scopes_never_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(cache: PrefixCache, scope: str) -> int:
        with cache.pin([1, 1, 2, 2], scope=scope) as prefix:
            return prefix.cached_tokens

    for collide in (False, True):
        if collide:
            monkeypatch.setattr(prompt_blocks, "block_hashes", lambda token_ids, *_: list(range(len(token_ids) // 2)))
        cache = PrefixCache(BLOCK_TOKENS, 1000)
        with cache.pin([1, 1, 2, 2], scope="a") as prefix:
            fill(prefix, [1, 1, 2, 2])
        assert [found(cache, scope) for scope in ("a", "b", "")] == [4, 0, 0]


def test_equal_last_tokens_behind_another_parent_are_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second block's own tokens and hash agree, what came before does not."""
    monkeypatch.setattr(prompt_blocks, "block_hashes", lambda token_ids, *_: [token_ids[0], 99][: len(token_ids) // 2])
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
    assert cache.take_changes() == ({hash_two: Tier.MEMORY, hash_three: Tier.MEMORY}, [])
    assert cache.take_changes() == ({}, [])
    store(cache, one)
    assert cache.take_changes() == ({hash_one: Tier.MEMORY}, [hash_two])


PROMPTS = st.lists(st.integers(1, 2), max_size=12)


class AnyOrder(RuleBasedStateMachine):
    spacing = 0

    def __init__(self) -> None:
        super().__init__()
        self.cache = PrefixCache(BLOCK_TOKENS, 6 * BLOCK_BYTES, checkpoint_spacing=self.spacing)
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
            assert not prefix.append(part_of([], size_bytes))
            return
        assert append(prefix, token_ids[:end], size_bytes) == (prefix.tokens == end)

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
        assert len(self.told) == len(self.cache) or (self.spacing and len(self.told) < len(self.cache))

    @rule(token_ids=PROMPTS)
    def look(self, token_ids: list[int]) -> None:
        assert cached(self.cache, token_ids) % BLOCK_TOKENS == 0

    @invariant()
    def holds(self) -> None:
        self.cache.validate()
        in_use = len({id(block) for _, prefix in self.pinned for block in prefix.blocks})
        assert self.cache.pinned == in_use or (self.spacing and self.cache.pinned > in_use)
        for token_ids, prefix in self.pinned:  # what is in use is found, and is that prompt's
            assert cached(self.cache, token_ids) >= prefix.cached_tokens
            assert self.spacing or cached(self.cache, token_ids) >= prefix.tokens


class AnyOrderWithCheckpoints(AnyOrder):
    spacing = 2


TestAnyOrder = AnyOrder.TestCase
TestAnyOrderWithCheckpoints = AnyOrderWithCheckpoints.TestCase
TestAnyOrderWithCheckpoints.settings = settings(max_examples=examples(100), stateful_step_count=40, deadline=None)
TestAnyOrder.settings = settings(max_examples=examples(100), stateful_step_count=40, deadline=None)
