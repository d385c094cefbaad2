"""Calls of tools as the `openai` client sees them."""

import json
from typing import Any

from tests.gateway.conftest import Edge

MESSAGES: Any = [{"role": "user", "content": "hello world"}]
TOOLS: Any = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]


async def test_calls_in_a_whole_answer(calling: Edge) -> None:
    async with calling.openai() as client:
        answer = await client.chat.completions.create(model="tiny", messages=MESSAGES, tools=TOOLS)
    choice = answer.choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "I see.")
    calls: Any = choice.message.tool_calls
    assert [(call.type, call.function.name, json.loads(call.function.arguments)) for call in calls] == [
        ("function", "look", {"at": "a b"}),
        ("function", "look", {}),
    ]
    assert len({call.id for call in calls}) == 2
    (generate,) = calling.site.generated
    assert generate.sampling.grammar == "" and "<tool_call>" in generate.sampling.shown_tokens


async def test_calls_in_a_stream_come_in_parts(calling: Edge) -> None:
    asked: Any = {"model": "tiny", "messages": MESSAGES, "tools": TOOLS}
    async with calling.openai() as client, client.chat.completions.stream(**asked) as stream:
        parts = [event async for event in stream if event.type == "tool_calls.function.arguments.delta"]
        final = await stream.get_final_completion()
    assert [part.arguments_delta for part in parts if part.index == 0 and part.arguments_delta] == ['{"at": "a', ' b"}']
    choice = final.choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "I see.")
    assert [json.loads(call.function.arguments) for call in choice.message.tool_calls or []] == [{"at": "a b"}, {}]


async def test_of_several_calls_the_first_counts_where_only_one_may_come(calling: Edge) -> None:
    async with calling.openai() as client:
        answer = await client.chat.completions.create(model="tiny", messages=MESSAGES, tools=TOOLS, parallel_tool_calls=False)
    assert len(answer.choices[0].message.tool_calls or []) == 1


async def test_a_call_that_must_come_is_a_grammar(calling: Edge) -> None:
    async with calling.openai() as client:
        await client.chat.completions.create(model="tiny", messages=MESSAGES, tools=TOOLS, tool_choice="required")
    (generate,) = calling.site.generated
    assert "<tool_call>" in generate.sampling.grammar


async def test_an_answer_is_text_where_nothing_may_be_called(calling: Edge) -> None:
    async with calling.openai() as client:
        answer = await client.chat.completions.create(model="tiny", messages=MESSAGES, tools=TOOLS, tool_choice="none")
    assert answer.choices[0].finish_reason == "stop"
    assert "<tool_call>" in (answer.choices[0].message.content or "")


async def test_the_calls_and_their_results_go_back_as_history(calling: Edge) -> None:
    async with calling.openai() as client:
        answer = await client.chat.completions.create(model="tiny", messages=MESSAGES, tools=TOOLS)
        message = answer.choices[0].message
        results: Any = [{"role": "tool", "tool_call_id": call.id, "content": "world"} for call in message.tool_calls or []]
        history: Any = [*MESSAGES, message.model_dump(), *results]
        again = await client.chat.completions.create(model="tiny", messages=history, tools=TOOLS)
    assert again.choices[0].message.tool_calls


async def test_a_model_whose_template_takes_no_tools_refuses_them(edge: Edge) -> None:
    answer = await edge.post("/v1/chat/completions", {"model": "tiny", "messages": MESSAGES, "tools": TOOLS})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tools")
