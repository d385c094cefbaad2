"""The one promise, end to end: prompts of every critical length, prefilled in either site, bit for bit the same answer."""

import pytest

from infra.stack import Stack
from tests.e2e.asking import complete, policy, tokens_of
from tests.e2e.conftest import describe

DESCRIPTION = describe("gemma-3-270m")
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(400)]

LENGTHS = (1, 2, 511, 512, 513, 514, 3000, 8000)
"""Around the sliding window and the chunk, with the last token left to the decode worker; and over many chunks."""


async def test_prompts_of_every_length_have_one_answer(stack: Stack) -> None:
    async with policy(stack, "remote_all"):
        remote = {length: await complete(stack, tokens_of(length)) for length in LENGTHS}
    async with policy(stack, "local_only"):
        local = {length: await complete(stack, tokens_of(length)) for length in LENGTHS}
    for length in LENGTHS:
        assert (remote[length].prefill_site, local[length].prefill_site) == ("remote", "local")
        assert remote[length].answer == local[length].answer, f"a prompt of {length} tokens"
        assert remote[length].prompt_tokens == length
        assert (remote[length].transfer["bytes"] > 0) == (length > 1)


async def test_a_short_prompt_stays_and_a_long_one_goes(stack: Stack) -> None:
    short = await complete(stack, tokens_of(100))
    long = await complete(stack, tokens_of(700))
    assert (short.prefill_site, short.outcome) == ("local", "local_short")
    assert (long.prefill_site, long.outcome) == ("remote", "offloaded")
    assert "699 uncached tokens > t = 600" in long.reason
