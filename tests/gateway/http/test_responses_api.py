"""`/v1/responses` as the `openai` client sees it, over a real nats-server and the real HTTP server."""

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from prfaas.contracts.to_decode import Generate
from prfaas.contracts.wire import unpack_tokens
from tests.gateway.conftest import Edge
from tests.gateway.scripted_site import Emitter
from tests.gateway.tiny_tokenizer import BOS, ids

TOOLS: Any = [{"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}, "strict": False}]


async def test_a_whole_answer(edge: Edge) -> None:
    async with edge.openai() as client:
        answer = await client.responses.create(
            model="tiny",
            input="hello world",
            instructions="x",
            temperature=0,
            max_output_tokens=9,
            metadata={"a": "b"},
            store=False,
        )
    assert (answer.output_text, answer.status, answer.metadata, answer.temperature) == ("hello world", "completed", {"a": "b"}, 0)
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (10, 4, 14)
    assert answer.usage.input_tokens_details.cached_tokens == 2
    (generate,) = edge.site.generated
    assert unpack_tokens(generate.token_ids) == [BOS, *ids("system", ":", "x", "user", ":", "hello", "world", "A", ":")]
    assert (generate.sampling.max_tokens, generate.sampling.temperature) == (9, 0)


async def test_a_stream_says_what_the_whole_answer_says(edge: Edge) -> None:
    async with edge.openai() as client:
        whole = await client.responses.create(model="tiny", input="hello")
        stream = await client.responses.create(model="tiny", input="hello", stream=True)
        events = [event async for event in stream]
        async with client.responses.stream(model="tiny", input="hello") as gathered:
            final = await gathered.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == final.output_text == whole.output_text == "hello world"
    assert last.response.usage == final.usage == whole.usage


async def test_calls_and_their_outputs_go_back_as_history(calling: Edge) -> None:
    history: Any = [{"role": "user", "content": "hello"}]
    async with calling.openai() as client:
        answer = await client.responses.create(model="tiny", input=history, tools=TOOLS)
        calls = [item for item in answer.output if item.type == "function_call"]
        assert [(call.name, json.loads(call.arguments)) for call in calls] == [("look", {"at": "a b"}), ("look", {})]
        history += [item.model_dump() for item in answer.output]
        history += [{"type": "function_call_output", "call_id": call.call_id, "output": "world"} for call in calls]
        again = await client.responses.create(model="tiny", input=history, tools=TOOLS)
    assert again.output_text == "I see."


async def test_calls_in_a_stream(calling: Edge) -> None:
    async with calling.openai() as client, client.responses.stream(model="tiny", input="hello", tools=TOOLS) as stream:
        parts = [event.delta async for event in stream if event.type == "response.function_call_arguments.delta"]
        final = await stream.get_final_response()
    assert parts == ['{"at": "a', ' b"}', "{}"]
    assert [item.type for item in final.output] == ["message", "function_call", "function_call"]


async def test_a_form_is_kept_by_a_grammar(edge: Edge) -> None:
    class Point(BaseModel):
        x: int

    async def script(_generate: Generate, emit: Emitter) -> None:
        await emit.started()
        await emit.tokens('{"x": 3}')
        await emit.finished(1)

    edge.site.script = script
    async with edge.openai() as client:
        answer = await client.responses.parse(model="tiny", input="hello", text_format=Point)
    assert answer.output_parsed == Point(x=3)
    assert edge.site.generated[0].sampling.grammar


async def test_an_answer_that_is_cut_off(edge: Edge) -> None:
    async def script(_generate: Generate, emit: Emitter) -> None:
        await emit.started()
        await emit.tokens("hello")
        await emit.finished(1, reason="length")

    edge.site.script = script
    async with edge.openai() as client:
        answer = await client.responses.create(model="tiny", input="hello", max_output_tokens=1)
        events = [event async for event in await client.responses.create(model="tiny", input="hello", stream=True)]
    assert answer.status == "incomplete" and answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert events[-1].type == "response.incomplete"


async def test_a_stream_that_fails(edge: Edge) -> None:
    async def script(_generate: Generate, emit: Emitter) -> None:
        await emit.started()
        await emit.tokens("hello")
        await emit.failed("engine", "the device is gone")

    edge.site.script = script
    async with edge.openai() as client:
        events = [event async for event in await client.responses.create(model="tiny", input="hello", stream=True)]
    last = events[-1]
    assert last.type == "response.failed" and last.response.error is not None
    assert (last.response.error.code, last.response.error.message) == ("server_error", "The device is gone.")


@pytest.mark.parametrize(("fields", "param"), [
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"store": True}, "store"),
    ({"max_output_tokens": 99}, "input"),
    ({"tools": TOOLS}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"text": {"format": {"type": "json_schema", "name": "n", "schema": {"not": {}}}}}, "text.format.schema"),
])  # fmt: skip
async def test_what_is_refused_is_named(edge: Edge, fields: Any, param: str) -> None:
    async with edge.openai() as client:
        with pytest.raises(openai.BadRequestError) as raised:
            await client.responses.create(**{"model": "tiny", "input": "hello", **fields})
    assert raised.value.param == param


async def test_tools_beside_a_form_are_refused_in_this_endpoints_words(calling: Edge) -> None:
    body = {"model": "tiny", "input": "hello", "tools": TOOLS, "text": {"format": {"type": "json_object"}}}
    answer = await calling.post("/v1/responses", body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "text.format") and error["message"].startswith("`text.format`")


async def test_a_large_request_is_read_beside_the_gateway(edge: Edge) -> None:
    body = {"model": "tiny", "input": "hello", "user": "u" * 100_000, "metadata": {"a": "b"}}
    answer = (await edge.post("/v1/responses", body)).json()
    assert (answer["output"][0]["content"][0]["text"], answer["metadata"]) == ("hello world", {"a": "b"})
