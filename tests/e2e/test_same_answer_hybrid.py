"""Gemma 3 270M, full and sliding layers: one answer, wherever the prefill ran."""

import pytest

from prfaas.stack.stack import Stack
from tests.e2e.asking import complete, tokens_of, use_policy
from tests.e2e.asking_same import assert_same_answers_in_both_sites
from tests.e2e.conftest import describe

DESCRIPTION = describe("gemma-3-270m")
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]


async def test_prompts_of_every_length_have_one_answer(stack: Stack) -> None:
    await assert_same_answers_in_both_sites(stack)


async def test_a_short_prompt_stays_and_a_long_one_goes(stack: Stack) -> None:
    await use_policy(stack, "threshold")
    short = await complete(stack, tokens_of(100))
    long = await complete(stack, tokens_of(700))
    assert (short.prefill_site, short.outcome) == ("local", "local_short")
    assert (long.prefill_site, long.outcome) == ("remote", "offloaded")
    assert "699 uncached tokens > t = 600" in long.reason
