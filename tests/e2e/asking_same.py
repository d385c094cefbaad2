"""The one promise as a check that any stack can be put to."""

import asyncio

from prfaas.stack.stack import Stack
from tests.e2e.asking import Told, complete, tokens_of, use_policy

LENGTHS = (1, 2, 511, 512, 513, 3000, 8000)
"""Around the sliding window and the chunk, with the last token left to the decode worker; and over many chunks."""


async def one_by_one(stack: Stack, policy_name: str) -> dict[int, Told]:
    await use_policy(stack, policy_name)
    return {length: await complete(stack, tokens_of(length)) for length in LENGTHS}


async def assert_same_answers_in_both_sites(stack: Stack) -> None:
    """Tokens and log-probabilities, bit for bit: each request is alone in its batch in both runs."""
    remote, local = await one_by_one(stack, "remote_all"), await one_by_one(stack, "local_only")
    for length in LENGTHS:
        assert (remote[length].prefill_site, local[length].prefill_site) == ("remote", "local"), remote[length].reason
        assert remote[length].answer == local[length].answer, f"a prompt of {length} tokens"
        assert remote[length].prompt_tokens == length
        assert (remote[length].transfer["bytes"] > 0) == (length > 1)


async def together(stack: Stack, policy_name: str, lengths: tuple[int, ...]) -> list[Told]:
    await use_policy(stack, policy_name)
    return await asyncio.gather(*(complete(stack, tokens_of(length), 24) for length in lengths))
