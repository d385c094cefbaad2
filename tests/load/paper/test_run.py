"""A small live stack with emulated engines: the answers prove that the right KV was installed, wherever it was made."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from load.paper.stack import MODEL, Scales, description
from load.simulate.paper import DEPLOYMENTS, FAR, H20_NAME, HOME, THRESHOLD_TOKENS
from prfaas.contracts.to_decode import Sampling
from prfaas.engine.protocol import DecodeRow
from prfaas.kvcache.layout import KVPiece
from prfaas.replay.arrival import Arrival
from prfaas.replay.client import Target
from prfaas.replay.prompts import TokenPrompts
from prfaas.replay.send import replay
from prfaas.stack.stack import Stack

pytestmark = pytest.mark.e2e

SCALES = Scales(time=50.0)


def expected(prompt: list[int], tokens: int) -> str:
    """The answer of an engine that computes all by itself."""
    engine = SCALES.engine(H20_NAME)
    pieces: list[KVPiece] = []
    engine.prefill(prompt[:-1], pieces.append, lambda: False)
    sequence = engine.reserve(len(prompt) - 1, len(prompt) + tokens)
    for piece in pieces:
        engine.install(sequence, piece)
    row = DecodeRow(sequence=sequence, token_id=prompt[-1], sampler=engine.sampler(Sampling(max_tokens=tokens)))
    answer = bytearray()
    for _ in range(tokens):
        (sampled,) = engine.decode([row])
        row.token_id = sampled.token_id
        answer.append(sampled.token_id)
    return answer.decode()


async def test_answers_do_not_depend_on_where_the_prefill_ran(tmp_path: Path) -> None:
    deployment = DEPLOYMENTS["threshold"]._replace(n_prfaas=1, n_prefill=1, n_decode=1)
    threshold = round(THRESHOLD_TOKENS / SCALES.tokens)
    lengths = [2, 100, threshold + 1, threshold + 2, 1000, 2500]
    arrivals = [Arrival(0.05 * index, tokens, 8) for index, tokens in enumerate(lengths)]
    prompts = TokenPrompts(7)
    async with Stack(description(deployment, SCALES), tmp_path) as stack:
        target = Target(url=stack.gateway_url(HOME), model=MODEL, timeout_s=60.0)
        records = await replay(target, arrivals, prompts)
    assert [record.error for record in records] == [""] * len(lengths), [record.message for record in records]
    assert [record.prefill_site for record in records] == [HOME, HOME, HOME, FAR, FAR, FAR]
    for index, (arrival, record) in enumerate(zip(arrivals, records, strict=True)):
        prompt = prompts.tokens(index, arrival)
        assert (record.tokens, record.text) == (8, expected(prompt, 8))


async def test_prompts_that_share_blocks_are_computed_once_and_answered_the_same(tmp_path: Path) -> None:
    """Each prompt goes on where the last one ended. Long as they get, they stay at home: what is left to compute is short."""
    deployment = DEPLOYMENTS["threshold"]._replace(n_prfaas=2, n_prefill=2, n_decode=1)
    scales = msgspec.structs.replace(SCALES, chunk_tokens=64, cache_mib=64)
    threshold = round(THRESHOLD_TOKENS / scales.tokens)
    counts = [8 * turn + 3 for turn in range(5)]
    arrivals = [Arrival(0.0, 64 * count + 5, 8, list(range(count))) for count in counts]
    prompts = TokenPrompts(7, block_tokens=64)
    records = []
    async with Stack(description(deployment, scales), tmp_path) as stack:
        target = Target(url=stack.gateway_url(HOME), model=MODEL, timeout_s=60.0)
        for arrival in arrivals:
            records += await replay(target, [arrival], prompts)
            # Of the one prefill worker and the decode worker.
            await known_blocks(stack, 2 * (arrival.prompt_tokens // 64))
    assert [record.error for record in records] == [""] * 5, [record.message for record in records]
    assert [record.cached_tokens for record in records] == [0, *(64 * count for count in counts[:-1])]
    assert arrivals[2].prompt_tokens > threshold and {record.prefill_site for record in records} == {HOME}
    for arrival, record in zip(arrivals, records, strict=True):
        prompt = prompts.tokens(0, arrival)
        assert record.text == expected(prompt, 8)


async def known_blocks(stack: Stack, blocks: int) -> None:
    async with asyncio.timeout(60.0):
        while f"prfaas_known_cached_blocks {blocks:.1f}" not in await stack.metrics(HOME, "scheduler"):
            await asyncio.sleep(0.05)
