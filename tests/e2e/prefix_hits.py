"""One promise more for any stack: the answer does not depend on what was cached where."""

import asyncio
from collections.abc import Callable

from prfaas.site.sites import Role
from prfaas.stack.stack import Stack
from tests.e2e.asking import Told, complete, tokens_of

PROMPT = tokens_of(1200)
"""Two blocks and a half, of 512 tokens each."""
CACHED_TOKENS = 1024
DEADLINE_S = 300.0


async def restart(stack: Stack, site: str, role: Role) -> None:
    """Its cache is empty then."""
    worker = stack.process(site, role)
    await worker.stop(60.0)
    await worker.spawn()
    await worker.wait_ready(120.0)
    await stack.wait_introduced()


async def ask_until(stack: Stack, expected: Callable[[Told], bool]) -> Told:
    """Asks again and again: a decode worker keeps a request's prefix only after the answer has begun."""
    async with asyncio.timeout(DEADLINE_S):
        while not expected(told := await complete(stack, PROMPT)):
            continue
    return told


async def leaked_bytes(stack: Stack) -> float:
    page = await stack.metrics("local", "decode-worker")
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith("prfaas_kv_leaked_bytes{"))


async def assert_same_answers_whatever_is_cached(stack: Stack) -> None:
    """Nowhere, at both ends, at the prefill's only, at the decoding's only: tokens and log-probabilities, bit for bit."""
    nowhere = await complete(stack, PROMPT)
    assert (nowhere.cached_tokens, nowhere.transfer["saved_bytes"]) == (0, 0)
    both = await ask_until(stack, lambda told: told.transfer["reused_tokens"] == CACHED_TOKENS)
    await restart(stack, "local", Role.DECODE_WORKER)
    at_prefill = await complete(stack, PROMPT)
    await restart(stack, "remote", Role.PREFILL_WORKER)
    at_decoding = await complete(stack, PROMPT)
    for told, cached_tokens, reused_tokens in (
        (both, CACHED_TOKENS, CACHED_TOKENS),
        (at_prefill, CACHED_TOKENS, 0),
        (at_decoding, 0, CACHED_TOKENS),
    ):
        assert told.prefill_site == "remote"
        assert (told.cached_tokens, told.transfer["reused_tokens"]) == (cached_tokens, reused_tokens)
        assert told.transfer["bytes"] + told.transfer["saved_bytes"] == nowhere.transfer["bytes"]
        assert (told.transfer["saved_bytes"] > 0) == (reused_tokens > 0)
        assert told.answer == nowhere.answer
    assert await leaked_bytes(stack) == 0
