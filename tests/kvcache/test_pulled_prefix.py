"""A prefix that leaves one pool by hashes and proofs, in any pieces, is the same in another; others do not get it."""

import random
from collections.abc import Iterator, Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from prfaas.kvcache.block import Part
from prfaas.kvcache.blocks import block_hashes, block_proofs
from prfaas.kvcache.held_prefix import HeldPrefix
from prfaas.kvcache.layout import KVLayout, KVPiece, LayerKind, LayerRange, LayerSpec
from prfaas.kvcache.prefix_cache import PrefixCache
from prfaas.kvcache.pulled_prefix import PulledPrefix
from tests.budget import examples

BLOCK = 4
KEY = bytes(range(32))
FULL = LayerSpec(kind=LayerKind.FULL, kv_heads=1, head_dim=2, value_dim=1)
SLIDING = LayerSpec(kind=LayerKind.SLIDING, kv_heads=1, head_dim=1, window_tokens=6)
STATE = LayerSpec(kind=LayerKind.RECURRENT, state_bytes=11)
LAYOUTS = [
    KVLayout(dtype="bfloat16", layers=(FULL, FULL)),
    KVLayout(dtype="bfloat16", layers=(SLIDING, FULL, STATE)),
    KVLayout(dtype="float32", layers=(FULL, STATE)),
]


def kv_of(layout: KVLayout, part: LayerRange, token_ids: Sequence[int]) -> KVPiece:
    """Bytes that the tokens up to each of them decide."""
    if layout.layers[part.layer].kind is LayerKind.RECURRENT:
        return layout.piece(part, memoryview(random.Random(f"{token_ids[: part.end]}").randbytes(layout.range_bytes(part))))
    half = layout.key_bytes(part) // (part.end - part.start), layout.range_bytes(part) // (part.end - part.start)
    rows = [random.Random(f"{part.layer} {token_ids[: at + 1]}").randbytes(half[1]) for at in range(part.start, part.end)]
    keys, values = b"".join(row[: half[0]] for row in rows), b"".join(row[half[0] :] for row in rows)
    return KVPiece(part, memoryview(keys), memoryview(values))


def serve(cache: PrefixCache, layout: KVLayout, token_ids: Sequence[int], scope: str = "s") -> None:
    with cache.pin(token_ids, scope=scope) as prefix:
        while (end := prefix.tokens + BLOCK) <= len(token_ids):
            block = Part.of(kv_of(layout, part, token_ids) for part in layout.block_ranges(end - BLOCK, end))
            checkpoint = Part.of(kv_of(layout, part, token_ids) for part in layout.checkpoint_ranges(end))
            assert prefix.append(block, checkpoint if prefix.wants_checkpoint else None)


def pool(layout: KVLayout) -> PrefixCache:
    return PrefixCache.for_model(layout, BLOCK, 1 << 20, KEY)


def find(cache: PrefixCache, token_ids: Sequence[int], first_block: int = 0, scope: str = "s") -> HeldPrefix | None:
    hashes = list(block_hashes(token_ids, BLOCK, KEY, scope))
    return HeldPrefix.find(cache, hashes, block_proofs(token_ids, BLOCK, KEY, scope), first_block)


def cut(piece: KVPiece, data: st.DataObject, layout: KVLayout) -> Iterator[KVPiece]:
    start, end = piece.range.start, piece.range.end
    if layout.layers[piece.range.layer].kind is LayerKind.RECURRENT or not data.draw(st.booleans()):
        yield piece
        return
    middle = data.draw(st.integers(start, end))
    for first, last in ((start, middle), (middle, end)):
        if first < last:
            yield piece.part(first, last)


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=examples(40), deadline=None)
@given(data=st.data())
def test_what_arrives_is_what_was_computed(layout: KVLayout, data: st.DataObject) -> None:
    token_ids = data.draw(st.lists(st.integers(0, 3), min_size=BLOCK, max_size=30))
    tokens = len(token_ids) // BLOCK * BLOCK
    have = data.draw(st.integers(0, tokens // BLOCK - 1)) * BLOCK
    holder, puller = pool(layout), pool(layout)
    serve(holder, layout, token_ids)
    serve(puller, layout, token_ids[:have])
    held = find(holder, token_ids[:tokens], have // BLOCK)
    assert held is not None
    pulled = PulledPrefix(layout, BLOCK, have, tokens)
    assert pulled.size_bytes == layout.total_bytes(tokens, have)
    parts = [held.block(index) for index in range(have // BLOCK, tokens // BLOCK)] + [held.checkpoint()]
    for part in parts:
        assert part is not None
        for piece in part.pieces:
            for each in cut(piece, data, layout):
                pulled.install(each)
    held.release()
    assert pulled.store(puller, token_ids, "s", "") == tokens
    with puller.pin(token_ids, scope="s") as prefix:
        found = {piece.range: (bytes(piece.keys), bytes(piece.values)) for piece in prefix.loaded()}
    expected = [kv_of(layout, part, token_ids) for at in range(0, tokens, BLOCK) for part in layout.block_ranges(at, at + BLOCK)]
    expected += [kv_of(layout, part, token_ids) for part in layout.checkpoint_ranges(tokens)]
    assert found == {piece.range: (bytes(piece.keys), bytes(piece.values)) for piece in expected}
    assert holder.pinned == puller.pinned == 0
    holder.validate()
    puller.validate()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nobody_gets_a_prefix_of_other_tokens_or_another_scope(layout: KVLayout) -> None:
    cache = pool(layout)
    serve(cache, layout, range(16))
    assert find(cache, range(16), scope="other") is None
    assert find(cache, [*range(15), 99]) is None
    hashes = list(block_hashes(range(16), BLOCK, KEY, "s"))
    for proofs in (
        block_proofs(range(16), BLOCK, KEY, "other"),
        block_proofs(range(16), BLOCK, b"", "s"),
        block_proofs([*range(15), 99], BLOCK, KEY, "s"),
    ):
        assert HeldPrefix.find(cache, hashes, proofs, 0) is None
    assert HeldPrefix.find(cache, hashes[1:], block_proofs(range(16), BLOCK, KEY, "s")[1:], 0) is None, "from the middle"
    assert cache.pinned == 0
    assert find(cache, range(16)) is not None


def test_nothing_is_given_that_could_not_be_resumed_or_that_another_site_made() -> None:
    hybrid = pool(LAYOUTS[1])
    with hybrid.pin(range(8), scope="s") as prefix:
        for end in (4, 8):
            block = Part.of(kv_of(LAYOUTS[1], part, range(8)) for part in LAYOUTS[1].block_ranges(end - BLOCK, end))
            assert prefix.append(block)
    assert find(hybrid, range(8)) is None, "it has no checkpoint"
    dense = pool(LAYOUTS[0])
    pulled = PulledPrefix(LAYOUTS[0], BLOCK, 0, 8)
    assert pulled.store(dense, range(8), "s", "far") == 8
    assert find(dense, range(8)) is None
    assert dense.pinned == hybrid.pinned == 0


def test_a_pool_without_room_keeps_what_fits() -> None:
    layout = LAYOUTS[0]
    small = PrefixCache.for_model(layout, BLOCK, layout.total_bytes(8), KEY)
    assert PulledPrefix(layout, BLOCK, 0, 16).store(small, range(16), "s", "") <= 8
    small.validate()
