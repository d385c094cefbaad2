"""A tiny random model with recurrent layers, full attention and experts over two real sites: one answer, bit for bit."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from prfaas.engine.model_config import read_config
from prfaas.site.sites import Role
from prfaas.stack.stack import Stack
from tests.e2e.asking import Told, complete, use_policy
from tests.e2e.conftest import describe
from tests.engine.tiny_models import CONTEXT_TOKENS, save_tiny

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]
CHUNK_TOKENS = 64
OUTPUT_TOKENS = 16
LENGTHS = (1, 2, 3, 64, 65, 66, 129, 130, CONTEXT_TOKENS - OUTPUT_TOKENS)
"""Lengths of prompts, of which all but the last are prefilled: shorter than the convolution's kernel, around the chunks."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models"), "qwen3-next")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def own_stack(model: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    description = describe(str(model), policy="remote_all", prefix_cache_mib=64)
    engine = {"engine": {"dtype": "auto", "chunk-tokens": CHUNK_TOKENS}}
    services = tuple(
        msgspec.structs.replace(service, config=service.config | engine)
        if service.role in (Role.PREFILL_WORKER, Role.DECODE_WORKER)
        else service
        for service in description.services
    )
    async with Stack(msgspec.structs.replace(description, services=services), tmp_path_factory.mktemp("stack")) as stack:
        yield stack


def prompt_of(tokens: int) -> list[int]:
    """Prompts of other lengths share no block."""
    return [97 + (index * index + tokens * (index + 1) + index // 7) % 26 for index in range(tokens)]


async def ask(stack: Stack, tokens: int) -> Told:
    return await complete(stack, prompt_of(tokens), OUTPUT_TOKENS)


async def test_tokens_and_logprobs_are_equal_wherever_it_was_prefilled_and_whatever_was_cached(
    own_stack: Stack, model: Path
) -> None:
    layout = read_config(model, "auto").layout
    remote = {tokens: await ask(own_stack, tokens) for tokens in LENGTHS}
    again = {tokens: await ask(own_stack, tokens) for tokens in LENGTHS}
    await use_policy(own_stack, "local_only")
    local = {tokens: await ask(own_stack, tokens) for tokens in LENGTHS}
    for tokens in LENGTHS:
        assert (remote[tokens].prefill_site, local[tokens].prefill_site) == ("remote", "local"), remote[tokens].reason
        assert remote[tokens].answer == local[tokens].answer == again[tokens].answer, f"a prompt of {tokens} tokens"
        # A state is shipped whole, whatever the decode worker has of the prompt's keys and values.
        blocks_tokens = (tokens - 1) // CHUNK_TOKENS * CHUNK_TOKENS
        assert (remote[tokens].cached_tokens, again[tokens].cached_tokens) == (0, blocks_tokens)
        reused_tokens = again[tokens].transfer["reused_tokens"]
        assert remote[tokens].transfer["bytes"] == layout.total_bytes(tokens - 1)
        assert again[tokens].transfer["bytes"] == (layout.total_bytes(tokens - 1, reused_tokens) if tokens > 1 else 0)
    assert any(told.transfer["reused_tokens"] for told in again.values())


async def test_requests_at_once_have_the_tokens_that_they_have_alone(own_stack: Stack) -> None:
    """Computes in float32: rounding, which differs with the batch, moves no token then."""
    await use_policy(own_stack, "local_only")
    alone = [await ask(own_stack, tokens) for tokens in LENGTHS]
    await use_policy(own_stack, "remote_all")
    together = await asyncio.gather(*(ask(own_stack, tokens) for tokens in LENGTHS))
    assert [told.prefill_site for told in together] == ["remote"] * len(LENGTHS)
    assert [told.tokens for told in together] == [told.tokens for told in alone]
