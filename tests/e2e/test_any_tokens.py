"""Prompts of which the model makes parts of characters, rare scripts and special tokens: every answer is whole."""

import asyncio
import random
from typing import Any

import pytest
from tokenizers import Tokenizer

from prfaas.engine.weights import prepare
from prfaas.stack.stack import Stack
from tests.e2e.asking import client_of
from tests.e2e.conftest import describe

MODEL = "gemma-3-270m"
DESCRIPTION = describe(MODEL)
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]

PATIENT = {"x-prfaas-ttft-deadline-s": "500"}
"""A busy machine is not a defect."""
BOS, FIRST_BYTE = 2, 238
HALF_A_LLAMA = [478, 397, 404, 391, 478, 1123]
"""The bytes of a llama, the first byte of another one, and " x"."""


async def whole(stack: Stack, **ask: Any) -> Any:
    async with client_of(stack) as client:
        fields: dict[str, Any] = {"model": MODEL, "temperature": 0, "extra_headers": PATIENT} | ask
        return await client.completions.create(**fields)


async def streamed(stack: Stack, **ask: Any) -> tuple[str, list[Any]]:
    async with client_of(stack) as client:
        fields: dict[str, Any] = {"model": MODEL, "temperature": 0, "stream": True, "extra_headers": PATIENT} | ask
        stream = await client.completions.create(**fields)
        chunks = [chunk async for chunk in stream]
    return "".join(chunk.choices[0].text for chunk in chunks if chunk.choices), chunks


def byte_prompts() -> list[list[int]]:
    rng = random.Random(8)
    return [[BOS, *(rng.choice([FIRST_BYTE + rng.randrange(256), rng.randrange(262_144)]) for _ in range(64))] for _ in range(6)]


async def test_parts_of_characters_in_a_prompt_and_its_answer(stack: Stack) -> None:
    body = await whole(stack, prompt=[BOS, *HALF_A_LLAMA * 20], max_tokens=24)
    assert body.usage.completion_tokens <= 24 and body.choices[0].finish_reason in ("length", "stop")
    assert (await streamed(stack, prompt=[BOS, *HALF_A_LLAMA * 20], max_tokens=24))[0] == body.choices[0].text


async def test_poisonous_prompts_disturb_no_answer_beside_them(stack: Stack) -> None:
    plain = {"prompt": "1, 2, 3, 4, 5, 6, 7,", "max_tokens": 60, "extra_body": {"ignore_eos": True}}
    alone, _ = await streamed(stack, **plain)
    poison = [
        whole(stack, prompt=ids, max_tokens=24, temperature=1.2, seed=seed, extra_body={"ignore_eos": True}, logprobs=5)
        for seed, ids in enumerate(byte_prompts())
    ]
    (beside, _), *answers = await asyncio.gather(streamed(stack, **plain), *poison)
    assert beside == alone
    assert [answer.usage.completion_tokens for answer in answers] == [24] * len(poison)


async def test_the_bytes_of_the_tokens_are_the_text(stack: Stack) -> None:
    """Cut at every length, so that some answers end inside of a character."""
    tokenizer = Tokenizer.from_file(str(prepare(MODEL).tokenizer))
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    text = "🦙🐫🦙🐫🦙🐫🦙🐫🦙🐫🦙"
    async with client_of(stack) as client:
        for max_tokens in range(1, 12):
            body = await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": text}], max_tokens=max_tokens, temperature=1.2, seed=3,
                logprobs=True, top_logprobs=5, extra_body={"ignore_eos": True}, extra_headers=PATIENT,
            )  # fmt: skip
            choice = body.choices[0]
            assert choice.logprobs is not None and choice.logprobs.content is not None and body.usage is not None
            assert body.usage.completion_tokens == max_tokens == len(choice.logprobs.content)
            data = b"".join(bytes(token.bytes or ()) for token in choice.logprobs.content if token.token not in special)
            assert (choice.message.content or "").replace("�", "") == data.decode(errors="ignore").replace("�", "")
            assert all(len(token.top_logprobs) == 5 for token in choice.logprobs.content)


async def test_a_chat_that_ignores_ends_is_as_long_as_it_was_asked_to_be(stack: Stack) -> None:
    ask: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 0,
        "extra_headers": PATIENT,
    }
    async with client_of(stack) as client:
        long = await client.chat.completions.create(**ask, max_tokens=100, extra_body={"ignore_eos": True})
        least = await client.chat.completions.create(**ask, max_tokens=100, extra_body={"min_tokens": 40})
        stop = await client.chat.completions.create(**ask, max_tokens=100, stop=["."], extra_body={"ignore_eos": True})
    assert long.usage is not None and long.usage.completion_tokens == 100 and long.choices[0].finish_reason == "length"
    assert least.usage is not None and least.usage.completion_tokens > 40
    assert stop.choices[0].finish_reason == "stop" and "." not in (stop.choices[0].message.content or "")
    assert (long.choices[0].message.content or "").startswith(least.choices[0].message.content or "")


async def test_an_offset_is_where_its_token_begins_in_the_text(stack: Stack) -> None:
    ask: dict[str, Any] = {"prompt": [BOS, *HALF_A_LLAMA[:4] * 8], "max_tokens": 24, "logprobs": 3}
    body = await whole(stack, **ask)
    choice = body.choices[0]
    for token, offset in zip(choice.logprobs.tokens, choice.logprobs.text_offset, strict=True):
        if not token.startswith("bytes:") and token.strip("<>") == token:
            assert choice.text[offset : offset + len(token)] == token
    assert choice.logprobs.text_offset == sorted(choice.logprobs.text_offset)
    assert all(top[token] == value for top, token, value in zip(
        choice.logprobs.top_logprobs, choice.logprobs.tokens, choice.logprobs.token_logprobs, strict=True
    ))  # fmt: skip
    text, chunks = await streamed(stack, **ask)
    assert text == choice.text
    parts = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices and chunk.choices[0].logprobs]
    assert [offset for part in parts for offset in part.text_offset] == choice.logprobs.text_offset
