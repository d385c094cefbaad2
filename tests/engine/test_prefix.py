"""A prefill that begins after a cached prefix hands out the same bits as one from the start, on real models."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from prfaas.contracts.to_decode import Sampling
from prfaas.engine.model_directory import ModelFiles
from prfaas.engine.protocol import DecodeRow, PrefillCancelled, SampledToken
from prfaas.engine.torch_engine import TorchEngine
from prfaas.kvcache.layout import KVPiece, LayerKind, LayerRange
from prfaas.kvcache.prefix_cache import PrefixCache

BLOCK_TOKENS = 128
"""Several to a window of 512."""
CAPACITY_BYTES = 256 << 20

KV = dict[int, tuple[int, bytes, bytes]]
"""Layer -> the first token, then the keys and values of all tokens from there on."""


@pytest.fixture(scope="module")
def engine(files: ModelFiles) -> Iterator[TorchEngine]:
    yield TorchEngine(files, dtype="bfloat16", chunk_tokens=BLOCK_TOKENS, device=torch.device("cpu"))


def joined(pieces: Sequence[KVPiece]) -> KV:
    kv: KV = {}
    for (layer, start, _), keys, values in pieces:
        first, some_keys, some_values = kv.get(layer, (start, b"", b""))
        kv[layer] = first, some_keys + keys, some_values + values
    return kv


def prefill(engine: TorchEngine, token_ids: Sequence[int], cache: PrefixCache | None = None, from_token: int = 0) -> KV:
    pieces: list[KVPiece] = []
    if cache is None:
        engine.prefill(token_ids, pieces.append, lambda: False, from_token=from_token)
    else:
        with cache.pin(token_ids) as prefix:
            engine.prefill(token_ids, pieces.append, lambda: False, prefix=prefix, from_token=from_token)
        cache.validate()
        assert cache.pinned == 0
    layout = engine.describe().layout
    assert sum(piece.size_bytes for piece in pieces) == layout.total_bytes(len(token_ids), from_token)
    return joined(pieces)


def cached(cache: PrefixCache, token_ids: Sequence[int]) -> int:
    with cache.pin(token_ids) as prefix:
        return prefix.cached_tokens


def decode(engine: TorchEngine, token_ids: Sequence[int], pieces: Sequence[KVPiece], tokens: int = 4) -> list[SampledToken]:
    sequence = engine.reserve(len(token_ids) - 1, len(token_ids) + tokens)
    for piece in pieces:
        engine.install(sequence, piece)
    sampler = engine.sampler(Sampling(max_tokens=tokens, temperature=0.0, top_logprobs=2))
    row = DecodeRow(sequence=sequence, token_id=token_ids[-1], sampler=sampler)
    out = []
    for _ in range(tokens):
        (token,) = engine.decode([row])
        row.token_id = token.token_id
        out.append(token)
    return out


# The prefix ends inside the first window, behind it, and at the prompt's own end.
@pytest.mark.parametrize(("shared_tokens", "prompt_tokens"), [(128, 300), (640, 700), (768, 768)])
def test_a_hit_gives_the_bits_of_a_miss(engine: TorchEngine, text_ids: list[int], shared_tokens: int, prompt_tokens: int) -> None:
    cache = PrefixCache.for_model(engine.describe().layout, BLOCK_TOKENS, CAPACITY_BYTES)
    prefill(engine, text_ids[: shared_tokens + 1], cache)
    prompt = text_ids[:shared_tokens] + text_ids[2000 : 2000 + prompt_tokens - shared_tokens]
    assert cached(cache, prompt) == shared_tokens
    expected = prefill(engine, prompt)
    assert prefill(engine, prompt, cache) == expected
    assert cached(cache, prompt) == prompt_tokens // BLOCK_TOKENS * BLOCK_TOKENS
    assert prefill(engine, prompt, cache) == expected


@pytest.mark.parametrize("from_end", [-1, 0, 1])
def test_a_hit_at_every_boundary_gives_the_bits_of_a_miss(engine: TorchEngine, text_ids: list[int], from_end: int) -> None:
    """Prompts that leave an earlier one around the ends of its blocks, each of them twice: once where nothing could be resumed,
    and once more where that has left a checkpoint."""
    cache = PrefixCache.for_model(engine.describe().layout, BLOCK_TOKENS, CAPACITY_BYTES)
    prefill(engine, text_ids[:700], cache)
    for blocks in (1, 4):
        shared_tokens = blocks * BLOCK_TOKENS + from_end
        prompt = text_ids[:shared_tokens] + text_ids[2000 + 60 * blocks : 2050 + 60 * blocks]
        expected = prefill(engine, prompt)
        assert prefill(engine, prompt, cache) == expected
        assert cached(cache, prompt) == len(prompt) // BLOCK_TOKENS * BLOCK_TOKENS
        assert prefill(engine, prompt, cache) == expected


def test_what_the_decode_worker_has_is_not_handed_out(engine: TorchEngine, text_ids: list[int]) -> None:
    """The prefill worker has as much of it, or less, or more."""
    prompt = text_ids[:700]
    whole = prefill(engine, prompt)
    layout = engine.describe().layout
    for cached_tokens, from_token in ((256, 256), (0, 384), (640, 384)):
        cache = PrefixCache.for_model(engine.describe().layout, BLOCK_TOKENS, CAPACITY_BYTES)
        prefill(engine, prompt[:cached_tokens], cache)
        for layer, (start, keys, values) in prefill(engine, prompt, cache, from_token).items():
            needed = layout.needed(layer, len(prompt), from_token)
            skipped = (needed.start - whole[layer][0]) * layout.token_bytes(layer) // 2
            assert (start, keys, values) == (needed.start, whole[layer][1][skipped:], whole[layer][2][skipped:])


def test_eviction_in_the_middle_of_all_this_changes_no_bit(engine: TorchEngine, text_ids: list[int]) -> None:
    layout = engine.describe().layout
    block_bytes = sum(layout.range_bytes(part) for part in layout.block_ranges(0, BLOCK_TOKENS))
    checkpoint_bytes = sum(layout.range_bytes(part) for part in layout.checkpoint_ranges(512))
    cache = PrefixCache.for_model(layout, BLOCK_TOKENS, 5 * block_bytes + 2 * checkpoint_bytes)
    prompts = [text_ids[:520], text_ids[:256] + text_ids[1000:1200], text_ids[600:900]]
    expected = [prefill(engine, prompt) for prompt in prompts]
    hits = []
    for index in (0, 1, 1, 2, 0, 1):
        hits.append(cached(cache, prompts[index]))
        assert prefill(engine, prompts[index], cache) == expected[index]
    assert hits[:4] == [0, 0 if checkpoint_bytes else 256, 384, 0] and any(hits[4:])
    assert cache.evicted_bytes


def test_a_cancelled_prefill_leaves_whole_blocks_and_nothing_in_use(engine: TorchEngine, text_ids: list[int]) -> None:
    cache = PrefixCache.for_model(engine.describe().layout, BLOCK_TOKENS, CAPACITY_BYTES)
    seen: list[KVPiece] = []
    with pytest.raises(PrefillCancelled), cache.pin(text_ids[:500]) as prefix:
        engine.prefill(text_ids[:500], seen.append, lambda: len(cache) == 2, prefix=prefix)
    # Of a model with windows the blocks are there, but no checkpoint yet.
    found = 0 if cache.checkpoint_spacing else 256
    assert (cache.pinned, len(cache), cached(cache, text_ids[:500])) == (0, 2, found)

    def broken_link(_: KVPiece) -> None:
        raise ConnectionError("the link is gone")

    for tokens, kept in ((500, found), (100, 0)):
        with pytest.raises(ConnectionError), cache.pin(text_ids[:tokens]) as prefix:
            engine.prefill(text_ids[:tokens], broken_link, lambda: False, prefix=prefix)
        assert (cache.pinned, cached(cache, text_ids[:tokens])) == (0, kept)
    assert prefill(engine, text_ids[:500], cache) == prefill(engine, text_ids[:500])


def test_blocks_own_their_memory(engine: TorchEngine, text_ids: list[int]) -> None:
    """The cache counts all that it holds: no view keeps the buffers of a whole prompt alive."""
    cache = PrefixCache.for_model(engine.describe().layout, BLOCK_TOKENS, CAPACITY_BYTES)
    prefill(engine, text_ids[:300], cache)
    with cache.pin(text_ids[:300]) as prefix:
        halves = [half for piece in prefix.loaded() for half in (piece.keys, piece.values)]
        owners: list[Any] = [half.obj for half in halves]  # arrays, whose base is the tensor
    assert [owner.base.untyped_storage().nbytes() for owner in owners] == [half.nbytes for half in halves]


def test_the_decode_side_reads_blocks_back_and_answers_the_same_from_them(engine: TorchEngine, text_ids: list[int]) -> None:
    """Tokens and log-probabilities, bit for bit, from full layers of an earlier request and a shorter transfer."""
    layout = engine.describe().layout
    earlier, prompt = text_ids[:500], text_ids[:384] + text_ids[1000:1200]
    pieces: list[KVPiece] = []
    engine.prefill(earlier, pieces.append, lambda: False)
    sequence = engine.reserve(500, 520)
    for piece in pieces:
        engine.install(sequence, piece)
    full = [layer for layer, spec in enumerate(layout.layers) if spec.kind is LayerKind.FULL]
    kept = [engine.read(sequence, LayerRange(layer, start, start + 128)) for start in (0, 128, 256) for layer in full]

    whole: list[KVPiece] = []
    engine.prefill(prompt[:-1], whole.append, lambda: False)
    rest: list[KVPiece] = []
    engine.prefill(prompt[:-1], rest.append, lambda: False, from_token=384)
    assert decode(engine, prompt, kept + rest) == decode(engine, prompt, whole)
    assert sum(piece.size_bytes for piece in rest) < sum(piece.size_bytes for piece in whole)
