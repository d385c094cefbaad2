"""The emulated engine with a prefix cache: no byte and no answer depends on what was cached."""

import time
from collections.abc import Sequence

import hypothesis.strategies as st
from hypothesis import given, settings

from prfaas.engine.emulated import EmulatedEngine
from prfaas.engine.emulated_model import EMULATED_MODELS
from prfaas.kvcache.layout import KVPiece, LayerKind, LayerRange
from prfaas.kvcache.prefix_cache import PrefixCache
from tests.budget import examples
from tests.engine.emulated_at_hand import answer, engine, prefilled, prompt


def with_cache(target: EmulatedEngine, token_ids: Sequence[int], cache: PrefixCache, from_token: int = 0) -> list[KVPiece]:
    pieces: list[KVPiece] = []
    with cache.pin(token_ids) as prefix:
        target.prefill(token_ids, pieces.append, lambda: False, prefix=prefix, from_token=from_token)
    cache.validate()
    assert cache.pinned == 0
    return pieces


@settings(deadline=None, max_examples=examples(60))
@given(st.integers(1, 300), st.integers(0, 300), st.sampled_from(sorted(EMULATED_MODELS)), st.data())
def test_a_cached_prefix_changes_no_byte(tokens: int, shared: int, model: str, data: st.DataObject) -> None:
    target = engine(model, chunk_tokens=64)
    token_ids = prompt(tokens)
    cache = PrefixCache.for_model(target.layout, 64, 1 << 30)
    with_cache(target, token_ids[:shared] + prompt(10, seed=1), cache)
    assert answer(target, with_cache(target, token_ids, cache), tokens) == answer(target, prefilled(target, token_ids), tokens)
    from_token = 64 * data.draw(st.integers(0, (tokens - 1) // 64))
    first: dict[int, int] = {}
    for piece in with_cache(target, token_ids, cache, from_token):
        first.setdefault(piece.range.layer, piece.range.start)
    kinds = [layer.kind for layer in target.layout.layers]
    assert first == {layer: from_token if kind is LayerKind.FULL else 0 for layer, kind in enumerate(kinds)}


def test_a_wrong_cached_block_changes_the_answer() -> None:
    target, token_ids = engine(), prompt(200)
    right = answer(target, prefilled(target, token_ids), 200)
    for block in range(3):
        cache = PrefixCache.for_model(target.layout, 64, 1 << 30)
        with_cache(target, token_ids, cache)
        assert answer(target, with_cache(target, token_ids, cache), 200) == right
        with cache.pin(token_ids) as prefix:
            prefix.blocks[block].pieces[0].keys[5] ^= 1
        assert answer(target, with_cache(target, token_ids, cache), 200) != right


def test_only_what_is_not_cached_takes_time() -> None:
    paced, token_ids = engine(profile="paper-1t-h20", time_scale=20.0), prompt(4000)
    cache = PrefixCache.for_model(paced.layout, 64, 1 << 30)
    with_cache(engine(), token_ids[:3840], cache)
    started_s = time.monotonic()
    with_cache(paced, token_ids, cache)
    took_s = time.monotonic() - started_s
    assert took_s >= paced.prefill_s(160, 3840) - 1e-3 > paced.prefill_s(160) + 0.01, "it attends to what is cached"
    emitted: list[float] = []
    with cache.pin(token_ids[:3840]) as prefix:
        started_s = time.monotonic()
        paced.prefill(token_ids[:3840], lambda piece: emitted.append(time.monotonic()), lambda: False, prefix=prefix)
    assert len(emitted) >= 8 and prefix.cached_tokens == 3840


def test_the_states_count_that_a_machine_would_keep() -> None:
    target = engine()
    cache = PrefixCache.for_model(target.layout, 64, 1 << 30)
    with_cache(target, prompt(130), cache)
    assert cache.size_bytes == target.layout.total_bytes(64) + target.layout.total_bytes(128, from_token=64)
    tight = PrefixCache.for_model(target.layout, 64, target.layout.total_bytes(128))
    with_cache(target, prompt(130), tight)
    assert tight.size_bytes == target.layout.total_bytes(128), "two blocks, and the state behind them"


def test_the_decode_side_reads_blocks_back() -> None:
    target, token_ids = engine(), prompt(200)
    pieces = prefilled(target, token_ids)
    sequence = target.reserve(200, 220)
    for piece in pieces:
        target.install(sequence, piece)
    full = [layer for layer, spec in enumerate(target.layout.layers) if spec.kind is LayerKind.FULL]
    kept = [target.read(sequence, LayerRange(layer, start, start + 64)) for start in (0, 64) for layer in full]
    rest: list[KVPiece] = []
    target.prefill(token_ids, rest.append, lambda: False, from_token=128)
    assert answer(target, kept + rest, 200) == answer(target, pieces, 200)
    kept[0].keys[0] ^= 1
    assert answer(target, kept + rest, 200) != answer(target, pieces, 200)
