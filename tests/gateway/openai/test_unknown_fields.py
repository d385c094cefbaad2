"""Fields that no API has: left out where they are to be ignored, at every depth, and refused by name otherwise."""

import json
from typing import Any

import pytest

from prfaas_gateway.dialects import DIALECTS, TOKENIZING_PARSERS
from prfaas_gateway.openai.errors import ApiError
from prfaas_gateway.openai.unknown_fields import NAME_CHARS, NAMED, UnknownFields
from tests.gateway.bodies import HELLO

EVERY_PARSER: Any = {name: dialect.parse for name, dialect in DIALECTS.items()} | TOKENIZING_PARSERS
BODIES: Any = {
    "completions": {"model": "m", "prompt": ["hello"], "stream_options": {"include_usage": True, "more": 1}},
    "chat.completions": {
        "model": "m",
        "messages": [*HELLO, {"role": "user", "content": [{"type": "text", "text": "x", "more": 1}], "more": {"x": 1}}],
        "tools": [{"type": "function", "more": 1, "function": {"name": "f", "more": 1, "parameters": {"more": "a schema's"}}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}, "more": 1},
    },
    "responses": {
        "model": "m",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "x", "more": 1}], "more": 1},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "more": 1},
        ],
        "tools": [{"type": "function", "name": "f", "more": 1, "parameters": {"more": "a schema's"}}],
        "tool_choice": {"type": "function", "name": "f", "more": 1},
        "text": {"format": {"type": "text", "more": 1}, "more": 1},
    },
    "messages": {
        "model": "m",
        "max_tokens": 1,
        "system": [{"type": "text", "text": "x", "more": 1}],
        "messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "more": 1}], "more": 1}],
        "tools": [{"name": "f", "input_schema": {}, "more": 1}],
        "tool_choice": {"type": "auto", "more": 1},
    },
    "messages.count_tokens": {"model": "m", "messages": [{"role": "user", "content": "x", "more": 1}]},
    "tokenize": {"messages": [{"role": "user", "content": "x", "more": 1}]},
    "detokenize": {"tokens": [1, 2, 3]},
}
UNKNOWN = {
    "completions": ["stream_options.more", "top"],
    "chat.completions": [
        "messages[1].content[0].more", "messages[1].more", "tool_choice.more", "tools[0].function.more", "tools[0].more", "top",
    ],
    "responses": [
        "input[0].content[0].more", "input[0].more", "input[1].more", "text.format.more", "text.more", "tool_choice.more",
        "tools[0].more", "top",
    ],
    "messages": [
        "messages[0].content[0].more", "messages[0].more", "system[0].more", "tool_choice.more", "tools[0].more", "top",
    ],
    "messages.count_tokens": ["messages[0].more", "top"],
    "tokenize": ["messages[0].more", "top"],
    "detokenize": ["top"],
}  # fmt: skip


def parsed(endpoint: str, body: Any, unknown: UnknownFields | None) -> Any:
    return EVERY_PARSER[endpoint](json.dumps(body).encode(), unknown)


def cleaned(value: Any) -> Any:
    """Returns a body without `more`, except in a schema."""
    if isinstance(value, list):
        return [cleaned(item) for item in value]
    if isinstance(value, dict):
        return {name: item if name == "parameters" else cleaned(item) for name, item in value.items() if name != "more"}
    return value


@pytest.mark.parametrize("endpoint", BODIES)
def test_unknown_fields_are_left_out_at_every_depth(endpoint: str) -> None:
    unknown = UnknownFields()
    taken = parsed(endpoint, {**BODIES[endpoint], "top": 1}, unknown)
    assert sorted(unknown.first) == UNKNOWN[endpoint] and unknown.count == len(UNKNOWN[endpoint])
    assert taken == parsed(endpoint, cleaned(BODIES[endpoint]), None)


@pytest.mark.parametrize("endpoint", BODIES)
def test_they_are_refused_by_name_otherwise(endpoint: str) -> None:
    with pytest.raises(ApiError) as refused:
        parsed(endpoint, {**cleaned(BODIES[endpoint]), "top": 1}, None)
    assert (refused.value.body.param, refused.value.body.code) == ("top", "unknown_parameter")


@pytest.mark.parametrize(("fields", "param"), [
    ({"best_of": 2, "echo": True}, "echo"), ({"logprobs": "yes"}, "logprobs"), ({"audio": {"x": 1}}, "audio"),
])  # fmt: skip
def test_fields_that_are_known_are_refused_all_the_same(fields: Any, param: str) -> None:
    with pytest.raises(ApiError) as refused:
        parsed("chat.completions", {"model": "m", "messages": HELLO, **fields}, UnknownFields())
    assert refused.value.body.param == param


def test_of_many_unknown_fields_a_few_are_named_and_all_counted() -> None:
    unknown = UnknownFields()
    parsed("completions", {"model": "m", "prompt": "x", **{f"{index}{'y' * 1000}": 1 for index in range(1000)}}, unknown)
    assert unknown.count == 1000 and len(unknown.first) == NAMED
    assert {len(name) for name in unknown.first} == {NAME_CHARS}
