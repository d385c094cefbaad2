"""Prefixes that a decode worker keeps of served prompts, and installs for later ones."""

import asyncio
import random
from collections.abc import Sequence

import pytest

from prfaas.contracts.to_decode import Sampling
from prfaas.engine.emulated import EmulatedConfig, EmulatedEngine
from prfaas.engine.emulated_sequence import EmulatedSequence
from prfaas.engine.protocol import DecodeRow, EngineError
from prfaas.kvcache.block_pool import Changes
from prfaas.kvcache.blocks import block_hashes
from prfaas.kvcache.layout import KVPiece
from prfaas_decode_worker.prefixes import KeptPrefixes

BLOCK_TOKENS = 64
HOME, FAR, EAST = "home", "far", "east"


@pytest.fixture
def engine() -> EmulatedEngine:
    config = EmulatedConfig(time_scale=1e6, byte_scale=6000.0, token_scale=32.0)
    return EmulatedEngine("emulated-1t", config, chunk_tokens=BLOCK_TOKENS)


def prompt(tokens: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(256), k=tokens)


def transferred(engine: EmulatedEngine, token_ids: Sequence[int], from_token: int) -> list[KVPiece]:
    pieces: list[KVPiece] = []
    engine.prefill(token_ids, pieces.append, lambda: False, from_token=from_token)
    return pieces


async def serve(
    engine: EmulatedEngine, kept: KeptPrefixes | None, token_ids: Sequence[int], prefill_site: str = HOME
) -> tuple[int, EmulatedSequence]:
    """Installs the kept prefix, then the rest, like an attempt."""
    sequence = engine.reserve(len(token_ids), len(token_ids) + 20)
    from_token = await kept.install(sequence, token_ids, prefill_site) if kept else 0
    for piece in transferred(engine, token_ids, from_token):
        engine.install(sequence, piece)
    if kept:
        await kept.keep(sequence, token_ids, prefill_site)
    return from_token, sequence


def answer(engine: EmulatedEngine, sequence: EmulatedSequence) -> list[int]:
    row = DecodeRow(sequence=sequence, token_id=7, sampler=engine.sampler(Sampling(max_tokens=12)))
    out = []
    for _ in range(12):
        (sampled,) = engine.decode([row])
        row.token_id = sampled.token_id
        out.append(sampled.token_id)
    return out


async def test_a_later_prompt_gets_what_it_shares_and_the_same_answer(engine: EmulatedEngine) -> None:
    heard: list[Changes] = []
    kept = KeptPrefixes(engine, 1 << 30, heard.append, site=HOME)
    first = prompt(200)
    for token_ids, shared in ((first, 0), (first[:130] + prompt(50, seed=1), 128), (first, 192), (first[:192], 128)):
        from_token, sequence = await serve(engine, kept, token_ids)
        assert from_token == shared  # never all of a prompt: something has to come
        assert answer(engine, sequence) == answer(engine, (await serve(engine, None, token_ids))[1])
    stored = [block for changes in heard for block in changes.stored]
    assert kept.pinned == 0
    assert stored[:3] == list(block_hashes(first, BLOCK_TOKENS)) and len(stored) == 3
    assert not any(changes.removed for changes in heard)


async def test_equal_prompts_of_two_scopes_share_nothing(engine: EmulatedEngine) -> None:
    kept = KeptPrefixes(engine, 1 << 30, lambda changes: None, site=HOME)
    sequence = engine.reserve(200, 220)
    for piece in transferred(engine, prompt(200), 0):
        engine.install(sequence, piece)
    await kept.keep(sequence, prompt(200), HOME, "a")
    found = [await kept.install(engine.reserve(200, 220), prompt(200), HOME, scope) for scope in ("a", "b", "")]
    assert found == [192, 0, 0]


async def test_it_stays_within_its_memory_and_tells_what_it_gave_up(engine: EmulatedEngine) -> None:
    block_bytes = engine.layout.total_bytes(128) - engine.layout.total_bytes(64)
    heard: list[Changes] = []
    kept = KeptPrefixes(engine, 3 * block_bytes, heard.append, site=HOME)
    for seed in range(3):
        await serve(engine, kept, prompt(200, seed))
    held = {block for changes in heard for block in changes.stored} - {block for changes in heard for block in changes.removed}
    assert held == set(block_hashes(prompt(200, 2), BLOCK_TOKENS))
    assert (await serve(engine, KeptPrefixes(engine, 0, heard.append, site=HOME), prompt(200)))[0] == 0


async def test_many_at_once_share_what_they_store(engine: EmulatedEngine) -> None:
    kept = KeptPrefixes(engine, 1 << 30, lambda changes: None, site=HOME)
    prompts = [prompt(140) + prompt(100, seed) for seed in range(6)]
    alone = [answer(engine, (await serve(engine, None, token_ids))[1]) for token_ids in prompts]
    for _ in range(2):
        served = await asyncio.gather(*(serve(engine, kept, token_ids) for token_ids in prompts))
        assert [answer(engine, sequence) for _, sequence in served] == alone
    assert [from_token for from_token, _ in served] == [192] * 6
    assert kept.pinned == 0


async def test_a_cancelled_attempt_leaves_nothing_in_use(engine: EmulatedEngine) -> None:
    kept = KeptPrefixes(engine, 1 << 30, lambda changes: None, site=HOME)
    await serve(engine, kept, prompt(400), HOME)
    installing = asyncio.create_task(kept.install(engine.reserve(399, 420), prompt(399), HOME))
    keeping = asyncio.create_task(serve(engine, kept, prompt(400, seed=1)))
    await asyncio.sleep(0)
    assert kept.pinned
    installing.cancel()
    keeping.cancel()
    await asyncio.wait([installing, keeping])
    assert kept.pinned == 0


async def test_a_sequence_that_does_not_fit_is_an_error_and_nothing_stays_in_use(engine: EmulatedEngine) -> None:
    kept = KeptPrefixes(engine, 1 << 30, lambda changes: None, site=HOME)
    await serve(engine, kept, prompt(400), HOME)
    with pytest.raises(EngineError, match="expected is a range"):
        await kept.install(engine.reserve(100, 120), prompt(400), HOME)
    assert kept.pinned == 0


async def test_what_a_site_made_is_used_for_its_own_prompts_only(engine: EmulatedEngine) -> None:
    kept = KeptPrefixes(engine, 1 << 30, lambda changes: None, site=HOME)
    first = prompt(200)

    async def found(prefill_site: str, token_ids: Sequence[int] = first) -> int:
        return await kept.install(engine.reserve(len(token_ids), len(token_ids) + 20), token_ids, prefill_site)

    await serve(engine, kept, first, FAR)
    assert [await found(site) for site in (FAR, HOME, EAST)] == [192, 0, 0]
    longer = first + prompt(200, seed=1)
    await serve(engine, kept, longer, HOME)
    assert [await found(site) for site in (FAR, HOME, EAST)] == [192, 192, 192], "the own site's took the place of the other's"
    await serve(engine, kept, longer + prompt(200, seed=2), FAR)
    longest = longer + prompt(200, seed=2)
    assert [await found(site, longest) for site in (FAR, HOME, EAST)] == [576, 384, 384]


async def test_wrong_kv_of_another_site_reaches_no_prompt_that_it_was_not_given(engine: EmulatedEngine) -> None:
    kept = KeptPrefixes(engine, 1 << 30, lambda changes: None, site=HOME)
    token_ids, lie = prompt(200), prompt(200, seed=9)
    sequence = engine.reserve(200, 220)
    for piece in transferred(engine, lie, 0):
        engine.install(sequence, piece)
    await kept.keep(sequence, token_ids, FAR)
    right = answer(engine, (await serve(engine, None, token_ids))[1])
    assert answer(engine, (await serve(engine, kept, token_ids, HOME))[1]) == right
    assert answer(engine, (await serve(engine, kept, token_ids, FAR))[1]) == right, "the lie is not kept any more"
