"""The `openai` client, unchanged, and clients that behave badly, against real processes."""

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Literal

import httpx
import openai
import pytest
from pydantic import BaseModel, Field

from prfaas.site.sites import Role
from prfaas.stack.stack import Stack
from tests.e2e.asking import client_of, complete, tokens_of
from tests.e2e.conftest import describe

DESCRIPTION = describe("smollm2-135m")
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]
DEADLINE_S = 120.0


async def metric(stack: Stack, role: Role, name: str, label: str = "") -> float:
    """Sum over all series of a metric that have the label, such as `result="stop"`."""
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        page = (await client.get(f"http://127.0.0.1:{stack.process('local', role).http_port}/metrics")).text
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith(f"{name}{{") and label in line)


async def until(what: str, reached: Callable[[], Awaitable[bool]]) -> None:
    until_at = time.monotonic() + DEADLINE_S
    while not await reached():
        assert time.monotonic() < until_at, what
        await asyncio.sleep(0.05)


async def until_slots_are_free(stack: Stack) -> None:
    async def free() -> bool:
        running = await metric(stack, Role.DECODE_WORKER, "vllm:num_requests_running")
        return not running and not await metric(stack, Role.DECODE_WORKER, "vllm:num_requests_waiting")

    await until("the decode worker still holds a slot", free)


async def requests_cancelled(stack: Stack) -> float:
    return await metric(stack, Role.DECODE_WORKER, "prfaas_decode_requests_total", 'result="cancelled"')


async def test_chat_streams_and_counts(stack: Stack) -> None:
    async with client_of(stack) as client:
        stream = await client.chat.completions.create(
            model="smollm2-135m",
            messages=[{"role": "user", "content": "What is the capital of France?"}],
            temperature=0,
            max_completion_tokens=24,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "France" in text or "Paris" in text, text
    usage = chunks[-1].usage
    assert usage is not None and usage.completion_tokens > 0 and usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 0
    reasons = {choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason}
    assert reasons <= {"stop", "length"} and len(reasons) == 1


async def test_three_apis_tell_the_same_answer_whole_and_streamed(stack: Stack) -> None:
    question = "What is the capital of France?"
    messages = [{"role": "user", "content": question}]
    ask = {"model": "smollm2-135m", "max_tokens": 24, "temperature": 0, "messages": messages}
    async with client_of(stack) as client, httpx.AsyncClient(base_url=stack.gateway_url("local"), timeout=DEADLINE_S) as plain:
        chat = await client.chat.completions.create(**ask)  # type: ignore[call-overload]
        response = await client.responses.create(model="smollm2-135m", input=question, temperature=0, max_output_tokens=24)
        stream = await client.responses.create(
            model="smollm2-135m", input=question, temperature=0, max_output_tokens=24, stream=True
        )
        events = [event async for event in stream]
        message = (await plain.post("/v1/messages", json=ask)).json()
        lines = (await plain.post("/v1/messages", json=ask | {"stream": True})).text.splitlines()
        counted = {name: ask[name] for name in ("model", "messages")}
        count = (await plain.post("/v1/messages/count_tokens", json=counted)).json()
        word = chat.choices[0].message.content.split()[3]
        stopped = (await plain.post("/v1/messages", json=ask | {"stop_sequences": ["no such text", word]})).json()
    text = chat.choices[0].message.content
    deltas = [json.loads(line[6:])["delta"] for line in lines if line.startswith("data: ") and "text_delta" in line]
    assert response.output_text == message["content"][0]["text"] == "".join(delta["text"] for delta in deltas) == text
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == text
    reasons = {"stop": ("completed", "end_turn"), "length": ("incomplete", "max_tokens")}
    assert (response.status, message["stop_reason"]) == reasons[chat.choices[0].finish_reason]
    used = message["usage"]
    prompt_tokens = used["input_tokens"] + used["cache_read_input_tokens"]
    assert prompt_tokens == count["input_tokens"] == chat.usage.prompt_tokens
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", word)
    assert stopped["content"][0]["text"] == text[: text.index(word)]


class City(BaseModel):
    name: Annotated[str, Field(max_length=20)]
    country: Literal["France", "Spain"]
    inhabitants: Annotated[int, Field(ge=0, le=99_999_999)] | None
    rivers: Annotated[list[Literal["Seine", "Loire"]], Field(max_length=2)]


async def test_an_answer_follows_its_schema_beside_others_that_follow_none(stack: Stack) -> None:
    prompt = tokens_of(30)
    alone = await complete(stack, prompt, max_tokens=40)
    async with client_of(stack) as client:
        asked = client.chat.completions.parse(
            model="smollm2-135m",
            messages=[{"role": "user", "content": "Describe Paris as JSON."}],
            response_format=City,
            max_completion_tokens=200,
            seed=3,
        )
        answer, beside = await asyncio.gather(asked, complete(stack, prompt, max_tokens=40))
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.parsed is not None
    assert beside.tokens == alone.tokens


async def test_a_seed_gives_the_same_sample_in_both_sites(stack: Stack) -> None:
    async def sample(prompt_tokens: int, seed: int) -> tuple[str, str]:
        async with client_of(stack) as client:
            raw = await client.completions.with_raw_response.create(
                model="smollm2-135m", prompt=tokens_of(prompt_tokens), max_tokens=16, temperature=0.8, top_p=0.9, seed=seed
            )
        return raw.parse().choices[0].text, raw.headers["x-prfaas-prefill-site"]

    first, again, other = await sample(700, 5), await sample(700, 5), await sample(700, 6)
    assert first == again and first[1] == "remote"
    assert other[0] != first[0]


async def test_stop_strings_min_tokens_and_ignore_eos(stack: Stack) -> None:
    async with client_of(stack) as client:
        ask = {"model": "smollm2-135m", "prompt": "1, 2, 3, 4, 5, 6, 7,", "temperature": 0.0}
        stopped = await client.completions.create(**ask, max_tokens=40, stop=[" 11"])  # type: ignore[call-overload]
        assert stopped.choices[0].finish_reason == "stop" and " 11" not in stopped.choices[0].text
        whole = await client.completions.create(**ask, max_tokens=40, extra_body={"ignore_eos": True, "min_tokens": 40})  # type: ignore[call-overload]
        assert whole.usage.completion_tokens == 40 and whole.choices[0].finish_reason == "length"


async def test_eight_requests_share_the_batch(stack: Stack) -> None:
    answers = await asyncio.gather(*(complete(stack, tokens_of(20 + 100 * index), 16) for index in range(8)))
    assert {answer.prefill_site for answer in answers} == {"local", "remote"}
    assert all(len(answer.tokens) == 16 or answer.finish_reason == "stop" for answer in answers)
    await until_slots_are_free(stack)
    assert await metric(stack, Role.DECODE_WORKER, "prfaas_kv_leaked_bytes") == 0


async def test_a_client_that_leaves_frees_its_slot(stack: Stack) -> None:
    before = await requests_cancelled(stack)
    async with client_of(stack) as client:
        stream = await client.completions.create(
            model="smollm2-135m", prompt="Once", max_tokens=4000, stream=True, extra_body={"ignore_eos": True}
        )
        async for _ in stream:
            break
        assert await metric(stack, Role.DECODE_WORKER, "vllm:num_requests_running") == 1
        await stream.close()
    await until_slots_are_free(stack)
    assert await requests_cancelled(stack) == before + 1, "it was ended, not finished"


async def test_a_client_that_leaves_during_prefill_frees_its_slot(stack: Stack) -> None:
    before = await requests_cancelled(stack)
    async with client_of(stack) as client:
        asked = asyncio.create_task(client.completions.create(model="smollm2-135m", prompt=tokens_of(4000), max_tokens=10))

        async def waits_for_kv() -> bool:
            return bool(await metric(stack, Role.DECODE_WORKER, "vllm:num_requests_waiting"))

        await until("the request never reached the decode worker", waits_for_kv)
        asked.cancel()
        await asyncio.wait([asked])
    await until_slots_are_free(stack)
    assert await requests_cancelled(stack) == before + 1, "it was ended, not finished"


async def test_bad_input_gets_openais_errors_and_the_service_goes_on(stack: Stack) -> None:
    async with client_of(stack) as client:
        with pytest.raises(openai.NotFoundError):
            await client.completions.create(model="gpt-17", prompt="x")
        with pytest.raises(openai.BadRequestError) as too_long:
            await client.completions.create(model="smollm2-135m", prompt=tokens_of(9000))
        assert too_long.value.code == "context_length_exceeded"
        with pytest.raises(openai.BadRequestError) as negative:
            await client.completions.create(model="smollm2-135m", prompt="x", max_tokens=-1)
        assert negative.value.param == "max_tokens"
    url = f"{stack.gateway_url('local')}/v1/completions"
    async with httpx.AsyncClient(timeout=DEADLINE_S) as http:
        for body, status in (
            (b"{not json", 400),
            (b'{"model": "smollm2-135m", "prompt": "\xff\xfe"}', 400),
            (b'{"model": 5, "prompt": []}', 400),
            (b'{"model": "smollm2-135m", "prompt": "x", "tools": [{"type": "function"}]}', 400),
            (b'{"prompt": "' + b"x" * (10 << 20) + b'"}', 413),
        ):
            response = await http.post(url, content=body, headers={"content-type": "application/json"})
            assert response.status_code == status, response.text[:200]
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    with socket.create_connection(("127.0.0.1", stack.process("local", Role.GATEWAY).http_port)) as raw:
        raw.sendall(b"\x00\x01garbage\r\n\r\n")
        raw.settimeout(DEADLINE_S)
        raw.recv(100)
    assert (await complete(stack, tokens_of(20))).tokens
