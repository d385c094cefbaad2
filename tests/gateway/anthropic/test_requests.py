"""Requests in Anthropic's words: the chat that they ask for, and what is refused by name."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prfaas_gateway.anthropic.requests import parse_count, parse_messages
from prfaas_gateway.openai.errors import ApiError
from prfaas_gateway.openai.tool_types import NamedTool
from prfaas_gateway.openai.types import ChatRequest, CountTokensRequest
from tests.budget import examples
from tests.gateway.bodies import values

USER = {"role": "user", "content": "hello"}
TOOL = {"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {"a": {"enum": [None, 1]}}}}


def parse(**fields: Any) -> ChatRequest:
    return parse_messages(json.dumps({"model": "m", "max_tokens": 9, "messages": [USER], **fields}).encode())


def told(request: ChatRequest | CountTokensRequest) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in request.messages]


def test_the_least_request() -> None:
    request = parse()
    assert (request.model, request.max_tokens, request.stream, told(request)) == ("m", 9, False, [("user", "hello")])
    assert (request.temperature, request.top_p, request.top_k, request.stop, request.tools) == (None, None, None, None, [])
    assert request.add_generation_prompt and not request.continue_final_message


def test_fields_of_sampling() -> None:
    request = parse(temperature=0, top_p=0.5, top_k=3, stop_sequences=["a", "b"], stream=True)
    assert (request.temperature, request.top_p, request.top_k, request.stop) == (0, 0.5, 3, ["a", "b"])
    assert request.stream


@pytest.mark.parametrize("system", ["Be kind.", [{"type": "text", "text": "Be ", "cache_control": {"type": "ephemeral"}},
                                                 {"type": "text", "text": "kind."}]])  # fmt: skip
def test_instructions_come_first(system: Any) -> None:
    assert told(parse(system=system)) == [("system", "Be kind."), ("user", "hello")]


@pytest.mark.parametrize("system", ["", [], None])
def test_empty_instructions_are_none(system: Any) -> None:
    assert told(parse(system=system)) == [("user", "hello")]


def test_a_history_with_calls_and_results() -> None:
    calls = [{"type": "tool_use", "id": name, "name": "look", "input": {"a": None}} for name in ("c1", "c2")]
    results = [
        {
            "type": "tool_result",
            "tool_use_id": "c1",
            "content": [{"type": "text", "text": "wor"}, {"type": "text", "text": "ld"}],
        },
        {"type": "tool_result", "tool_use_id": "c2", "content": "gone", "is_error": True},
        {"type": "text", "text": "And now?"},
    ]
    request = parse(messages=[
        USER,
        {"role": "assistant", "content": [{"type": "text", "text": "I see."}, *calls]},
        {"role": "user", "content": results},
    ], tools=[TOOL])  # fmt: skip
    assert told(request) == [
        ("user", "hello"), ("assistant", "I see."), ("tool", "world"), ("tool", "Error: gone"), ("user", "And now?"),
    ]  # fmt: skip
    called = request.messages[1].tool_calls
    assert [(call.id, call.function.name, call.function.arguments) for call in called] == [
        ("c1", "look", '{"a": null}'),
        ("c2", "look", '{"a": null}'),
    ]
    assert [message.tool_call_id for message in request.messages[2:4]] == ["c1", "c2"]


def test_a_result_may_be_empty() -> None:
    result = {"type": "tool_result", "tool_use_id": "c1"}
    assert told(parse(messages=[USER, {"role": "user", "content": [result]}])) == [("user", "hello"), ("tool", "")]


def test_an_answer_goes_on_with_the_assistants_last_message() -> None:
    request = parse(messages=[USER, {"role": "assistant", "content": "Once"}])
    assert request.continue_final_message and not request.add_generation_prompt


def test_tools_keep_their_schemas() -> None:
    (tool,) = parse(tools=[TOOL | {"type": "custom", "strict": True, "cache_control": {"type": "ephemeral"}}]).tools
    assert (tool.function.name, tool.function.description, tool.function.strict) == ("look", "Looks.", True)
    assert tool.function.parameters == TOOL["input_schema"]


@pytest.mark.parametrize(("choice", "expected", "parallel"), [
    (None, None, True),
    ({"type": "auto"}, "auto", True),
    ({"type": "auto", "disable_parallel_tool_use": True}, "auto", False),
    ({"type": "any", "disable_parallel_tool_use": False}, "required", True),
    ({"type": "none"}, "none", True),
    ({"type": "tool", "name": "look", "disable_parallel_tool_use": True}, "look", False),
])  # fmt: skip
def test_choices_of_tools(choice: Any, expected: str | None, parallel: bool) -> None:
    request = parse(tools=[TOOL], tool_choice=choice)
    found = request.tool_choice
    assert (found.function.name if isinstance(found, NamedTool) else found) == expected
    assert request.parallel_tool_calls is parallel


@pytest.mark.parametrize("fields", [
    {"metadata": {"user_id": "u"}}, {"thinking": {"type": "disabled"}}, {"service_tier": "auto"}, {"container": None},
    {"cache_control": {"type": "ephemeral", "ttl": "1h"}}, {"mcp_servers": []}, {"stop_sequences": []}, {"tools": []},
])  # fmt: skip
def test_what_asks_for_nothing_is_taken(fields: dict[str, Any]) -> None:
    assert parse(**fields) == parse()


def content(*blocks: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [USER, {"role": role, "content": list(blocks)}, USER]}


@pytest.mark.parametrize(("fields", "param", "code"), [
    ({"max_tokens": None}, "max_tokens", "missing_required_parameter"),
    ({"max_tokens": 0}, "max_tokens", "invalid_value"),
    ({"messages": []}, "messages", "invalid_value"),
    ({"messages": "hello"}, "messages", "invalid_value"),
    ({"messages": ["hello"]}, "messages[0]", "invalid_value"),
    ({"messages": [{"role": "system", "content": "x"}]}, "messages[0].role", "invalid_value"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "invalid_value"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "invalid_value"),
    (content("hello"), "messages[1].content[0]", "invalid_value"),
    (content({"text": "hello"}), "messages[1].content[0].type", "missing_required_parameter"),
    (content({"type": "image", "source": {}}), "messages[1].content[0].type", "unsupported_value"),
    (content({"type": "document"}), "messages[1].content[0].type", "unsupported_value"),
    (content({"type": "thinking", "thinking": "hm"}, role="assistant"), "messages[1].content[0].type", "unsupported_value"),
    (content({"type": "tool_use", "id": "c", "name": "f", "input": {}}), "messages[1].content[0].type", "unsupported_value"),
    (content({"type": "tool_use", "id": "c", "name": "f"}, role="assistant"),
     "messages[1].content[0].input", "missing_required_parameter"),
    (content({"type": "tool_result", "tool_use_id": "c", "content": [{"type": "image"}]}),
     "messages[1].content[0].content[0].type", "unsupported_value"),
    (content({"type": "text", "text": "x", "citations": [{}]}), "messages[1].content[0].citations", "unsupported_parameter"),
    (content({"type": "text", "text": "x", "frobnicate": 1}), "messages[1].content[0].frobnicate", "unknown_parameter"),
    ({"messages": [USER, {"role": "assistant", "content": []}]}, "messages", "invalid_value"),
    ({"system": [{"type": "image"}]}, "system[0].type", "unsupported_value"),
    ({"system": 3}, "system", "invalid_value"),
    ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking", "unsupported_parameter"),
    ({"mcp_servers": [{}]}, "mcp_servers", "unsupported_parameter"),
    ({"metadata": {"user_id": 3}}, "metadata[...]", "invalid_value"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type", "unsupported_value"),
    ({"tools": [{"name": "look"}]}, "tools[0].input_schema", "missing_required_parameter"),
    ({"tools": [TOOL | {"name": "a b"}]}, "tools[0].name", "invalid_value"),
    ({"tools": [TOOL | {"input_examples": [{}]}]}, "tools[0].input_examples", "unsupported_parameter"),
    ({"tools": ["look"]}, "tools[0]", "invalid_value"),
    ({"tool_choice": {"type": "tool"}}, "tool_choice.name", "invalid_value"),
    ({"tool_choice": {"type": "auto", "name": "look"}}, "tool_choice.name", "invalid_value"),
    ({"tool_choice": "auto"}, "tool_choice", "invalid_value"),
    ({"top_k": -1}, "top_k", "invalid_value"),
    ({"frobnicate": 1}, "frobnicate", "unknown_parameter"),
    ({"n": 2}, "n", "unknown_parameter"),
])  # fmt: skip
def test_what_is_refused_is_named(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(ApiError) as raised:
        parse(**fields)
    error = raised.value
    assert (error.status, error.body.param, error.body.code) == (400, param, code)
    assert f"`{param.split('[...]')[0]}" in error.body.message or param.endswith(".type")


def test_tokens_are_counted_without_a_length_and_nothing_else() -> None:
    body = {"model": "m", "messages": [USER], "system": "Be kind.", "tools": [TOOL]}
    assert told(parse_count(json.dumps(body).encode())) == [("system", "Be kind."), ("user", "hello")]
    with pytest.raises(ApiError, match="max_tokens"):
        parse_count(json.dumps(body | {"max_tokens": 9}).encode())


_names = st.sampled_from([
    "model", "messages", "system", "tools", "tool_choice", "max_tokens", "thinking", "metadata", "role", "content", "type",
    "text", "tool_use", "tool_result", "tool_use_id", "input", "id", "name", "input_schema", "is_error", "stop_sequences",
])  # fmt: skip
_words = st.sampled_from(["user", "assistant", "text", "tool_use", "tool_result", "image", "custom", "auto", "any"])
_near = st.recursive(
    values | _words, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=4), max_leaves=8
)


@settings(max_examples=examples(400), deadline=None)
@given(st.dictionaries(_names, _near, max_size=5), st.booleans())
def test_any_json_gives_a_request_or_an_error(fields: dict[str, Any], wins: bool) -> None:
    base = {"model": "m", "max_tokens": 9, "messages": [USER]}
    for parser in (parse_messages, parse_count):
        try:
            parser(json.dumps(base | fields if wins else fields | base).encode())
        except ApiError as error:
            assert error.status == 400 and error.body.message
