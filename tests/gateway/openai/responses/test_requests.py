"""Requests of the Responses API: the chat that they ask for, and what is refused by name."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prfaas_gateway.openai.errors import ApiError
from prfaas_gateway.openai.responses.requests import ResponsesRequest, parse_responses
from prfaas_gateway.openai.tool_types import NamedTool
from tests.budget import examples
from tests.gateway.bodies import values

TOOL = {"type": "function", "name": "look", "description": "Looks.", "parameters": {"enum": [None]}, "strict": True}
SCHEMA = {"type": "json_schema", "name": "n", "schema": {"enum": [None, 1]}}


def parse(**fields: Any) -> ResponsesRequest:
    return parse_responses(json.dumps({"model": "m", "input": "hello", **fields}).encode())


def told(request: ResponsesRequest) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in request.messages]


def test_the_least_request() -> None:
    request = parse()
    assert (request.model, request.max_tokens, request.stream, told(request)) == ("m", None, False, [("user", "hello")])
    assert (request.tool_choice, request.parallel_tool_calls, request.response_format) == ("auto", True, None)


def test_fields_of_sampling() -> None:
    request = parse(temperature=0, top_p=0.5, max_output_tokens=9, stream=True, instructions="Be kind.")
    assert (request.temperature, request.top_p, request.max_tokens, request.stream) == (0, 0.5, 9, True)
    assert told(request) == [("system", "Be kind."), ("user", "hello")]


def call(name: str) -> dict[str, Any]:
    return {"type": "function_call", "id": "fc", "status": "completed", "call_id": name, "name": "look", "arguments": "{}"}


def output(name: str, said: Any) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": name, "output": said}


def said(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "id": "msg", "status": "completed", "role": "assistant", "content": [part]}


def test_a_history_with_calls_and_outputs_is_one_turn_after_another() -> None:
    request = parse(input=[
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "input_text", "text": "hel"}, {"type": "input_text", "text": "lo"}]},
        said("I see."), call("c1"), call("c2"), output("c1", "world"), output("c2", [{"type": "input_text", "text": "x"}]),
        call("c3"), said("Wait."), output("c3", ""), {"role": "user", "content": "And now?", "type": "message"},
    ])  # fmt: skip
    assert told(request) == [
        ("developer", "Be kind."), ("user", "hello"), ("assistant", "I see."), ("tool", "world"), ("tool", "x"),
        ("assistant", "Wait."), ("tool", ""), ("user", "And now?"),
    ]  # fmt: skip
    assert [[each.id for each in message.tool_calls] for message in request.messages if message.role == "assistant"] == [
        ["c1", "c2"],
        ["c3"],
    ]
    assert [message.tool_call_id for message in request.messages if message.role == "tool"] == ["c1", "c2", "c3"]


def test_tools_keep_their_schemas() -> None:
    (tool,) = parse(tools=[TOOL]).tools
    assert (tool.function.name, tool.function.parameters, tool.function.strict) == ("look", {"enum": [None]}, True)


@pytest.mark.parametrize("choice", ["none", "auto", "required", {"type": "function", "name": "look"}])
def test_choices_of_tools(choice: Any) -> None:
    found = parse(tools=[TOOL], tool_choice=choice).tool_choice
    assert ({"type": "function", "name": found.function.name} if isinstance(found, NamedTool) else found) == choice


def test_forms() -> None:
    assert parse(text={"format": {"type": "text"}}).response_format is None
    found = parse(text={"format": {"type": "json_object"}, "verbosity": "medium"}).response_format
    assert found is not None and found.type == "json_object"
    found = parse(text={"format": SCHEMA}).response_format
    assert found is not None and found.json_schema is not None
    assert (found.json_schema.name, found.json_schema.schema) == ("n", {"enum": [None, 1]})


@pytest.mark.parametrize("fields", [
    {"store": False}, {"store": None}, {"background": False}, {"previous_response_id": None}, {"truncation": "disabled"},
    {"include": []}, {"include": ["reasoning.encrypted_content"]}, {"reasoning": {}}, {"reasoning": {"effort": "none"}},
    {"user": "u"}, {"service_tier": "auto"}, {"prompt_cache_key": "k"}, {"text": {}}, {"text": {"format": {}}},
    {"stream_options": {"include_obfuscation": False}}, {"tools": []}, {"conversation": ""}, {"top_logprobs": 0},
])  # fmt: skip
def test_what_asks_for_nothing_is_taken(fields: dict[str, Any]) -> None:
    found = parse(**fields)
    assert (told(found), found.response_format, found.tools) == ([("user", "hello")], None, [])


def content(*parts: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": list(parts)}]}


@pytest.mark.parametrize(("fields", "param", "code"), [
    ({"input": None}, "input", "missing_required_parameter"),
    ({"input": []}, "input", "invalid_value"),
    ({"input": 3}, "input", "invalid_value"),
    ({"input": ["hello"]}, "input[0]", "invalid_value"),
    ({"input": [{"id": "x"}]}, "input[0].type", "missing_required_parameter"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type", "unsupported_value"),
    ({"input": [{"type": "reasoning", "summary": []}]}, "input[0].type", "unsupported_value"),
    ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role", "invalid_value"),
    ({"input": [{"role": "user"}]}, "input[0].content", "missing_required_parameter"),
    ({"input": [call("c") | {"frobnicate": 1}]}, "input[0].frobnicate", "unknown_parameter"),
    ({"input": [output("c", 3)]}, "input[0].output", "invalid_value"),
    ({"input": [output("c", [{"type": "input_image"}])]}, "input[0].output[0].type", "unsupported_value"),
    (content("hello"), "input[0].content[0]", "invalid_value"),
    (content({"text": "hello"}), "input[0].content[0].type", "missing_required_parameter"),
    (content({"type": "input_image", "image_url": "x"}), "input[0].content[0].type", "unsupported_value"),
    (content({"type": "refusal", "refusal": "x"}), "input[0].content[0].type", "unsupported_value"),
    ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
    ({"store": True}, "store", "unsupported_parameter"),
    ({"background": True}, "background", "unsupported_parameter"),
    ({"previous_response_id": "resp_1"}, "previous_response_id", "unsupported_parameter"),
    ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
    ({"prompt": {"id": "p"}}, "prompt", "unsupported_parameter"),
    ({"include": ["message.output_text.logprobs"]}, "include", "unsupported_parameter"),
    ({"reasoning": {"effort": "high"}}, "reasoning", "unsupported_parameter"),
    ({"truncation": "auto"}, "truncation", "unsupported_parameter"),
    ({"stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation", "unsupported_parameter"),
    ({"stream_options": {"include_usage": True}}, "stream_options.include_usage", "unknown_parameter"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_value"),
    ({"tools": [{"name": "look"}]}, "tools[0].type", "missing_required_parameter"),
    ({"tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter"),
    ({"tools": ["look"]}, "tools[0]", "invalid_value"),
    ({"tool_choice": "any"}, "tool_choice", "invalid_value"),
    ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.type", "unsupported_value"),
    ({"tool_choice": {"type": "function"}}, "tool_choice.name", "missing_required_parameter"),
    ({"text": {"verbosity": "low"}}, "text.verbosity", "unsupported_parameter"),
    ({"text": {"format": {"type": "grammar"}}}, "text.format.type", "invalid_value"),
    ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema", "missing_required_parameter"),
    ({"text": "json"}, "text", "invalid_value"),
    ({"metadata": {str(number): "x" for number in range(17)}}, "metadata", "invalid_value"),
    ({"metadata": {"a": 3}}, "metadata[...]", "invalid_value"),
    ({"stop": "x"}, "stop", "unknown_parameter"),
    ({"messages": []}, "messages", "unknown_parameter"),
])  # fmt: skip
def test_what_is_refused_is_named(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(ApiError) as raised:
        parse(**fields)
    error = raised.value
    assert (error.status, error.body.param, error.body.code) == (400, param, code)


_names = st.sampled_from([
    "model", "input", "instructions", "tools", "tool_choice", "text", "format", "metadata", "role", "content", "type", "call_id",
    "name", "arguments", "output", "parameters", "schema", "stream", "include", "reasoning", "store",
])  # fmt: skip
_words = st.sampled_from(["user", "input_text", "message", "function_call", "function_call_output", "function", "json_schema"])
_near = st.recursive(
    values | _words, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=4), max_leaves=8
)


@settings(max_examples=examples(400), deadline=None)
@given(st.dictionaries(_names, _near, max_size=5), st.booleans())
def test_any_json_gives_a_request_or_an_error(fields: dict[str, Any], wins: bool) -> None:
    base = {"model": "m", "input": "hello"}
    try:
        parse_responses(json.dumps(base | fields if wins else fields | base).encode())
    except ApiError as error:
        assert error.status == 400 and error.body.message
