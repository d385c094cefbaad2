"""Gemma 3 270M: a prefix that the prefill site has cached is pulled to the pd site, and the answer is the same, bit for bit."""

import msgspec
import pytest

from prfaas.stack.stack import Stack
from tests.e2e.asking import Told, complete, tokens_of, use_policy
from tests.e2e.conftest import describe

BASE = describe("gemma-3-270m", policy="remote_all", prefix_cache_mib=256)
SITES = tuple(msgspec.structs.replace(site, pulls_from=("remote",) if site.name == "local" else ()) for site in BASE.sites)
DESCRIPTION = msgspec.structs.replace(BASE, sites=SITES)
PROMPTS = [tokens_of(1200, seed) for seed in (11, 12, 13)]
"""Two blocks and a half, of 512 tokens each."""
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]


async def counted(stack: Stack, series: str) -> float:
    page = await stack.metrics("local", "prefill-worker")
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith(series))


async def test_one_answer_whether_the_prefix_was_computed_or_pulled(stack: Stack) -> None:
    computed = [await complete(stack, prompt) for prompt in PROMPTS]
    assert {told.prefill_site for told in computed} == {"remote"} and {told.cached_tokens for told in computed} == {0}
    await use_policy(stack, "local_only")
    # A scheduler that was just started may not know all caches and the link yet: its first placements may have no pull.
    asked: list[Told] = [await complete(stack, prompt) for prompt in PROMPTS]
    pulled = [told for told in asked if "pulled from" in told.reason]
    assert pulled and asked[-1] in pulled, [told.reason for told in asked]
    assert {told.prefill_site for told in asked} == {"local"}
    assert [told.answer for told in asked] == [told.answer for told in computed]
    done = await counted(stack, 'prfaas_prefix_pulls_total{from_site="remote",model_name="gemma-3-270m",result="done"}')
    assert sum(told.cached_tokens for told in asked) == 1024 * done and done >= 1
