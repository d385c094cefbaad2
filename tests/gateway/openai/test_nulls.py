"""Values that ask for nothing: nulls at every depth, empty values, numbers written as fractions."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessage

from prfaas_gateway.openai.errors import ApiError
from prfaas_gateway.openai.fields import INERT
from prfaas_gateway.openai.plain import plain
from prfaas_gateway.openai.types import ChatRequest, CompletionRequest
from prfaas_gateway.openai.unsupported import (
    UNSUPPORTED,
    UNSUPPORTED_IN_MESSAGE,
    UNSUPPORTED_IN_PART,
    UNSUPPORTED_IN_STREAM_OPTIONS,
)
from prfaas_gateway.openai.validation import parse_chat, parse_completion

CHAT: dict[str, Any] = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hello"}], "name": "ann"},
    ],
    "stream": True,
    "stream_options": {"include_usage": True},
    "metadata": {"a": "b"},
    "max_tokens": 7,
    "logprobs": True,
}
COMPLETION: dict[str, Any] = {"model": "m", "prompt": "hello", "stream": True, "stream_options": {}, "logit_bias": {}}
KNOWN = sorted({
    *UNSUPPORTED, *UNSUPPORTED_IN_MESSAGE, *UNSUPPORTED_IN_PART, *UNSUPPORTED_IN_STREAM_OPTIONS, *INERT,
    *ChatRequest.__struct_fields__, *CompletionRequest.__struct_fields__, "role", "content", "name", "type", "text",
})  # fmt: skip
keys = st.sampled_from(KNOWN) | st.text(max_size=6)


def objects(value: Any) -> list[dict[str, Any]]:
    """The object itself and all within it."""
    if isinstance(value, dict):
        return [value, *(found for item in value.values() for found in objects(item))]
    return [found for item in value for found in objects(item)] if isinstance(value, list) else []


def outcome(body: Any) -> Any:
    """The request, or what its refusal says."""
    try:
        return (parse_chat if body.get("prompt") is None else parse_completion)(json.dumps(body).encode())
    except ApiError as error:
        return error.body


@given(st.sampled_from([CHAT, COMPLETION]), st.integers(0, 99), keys)
def test_null_equals_absent_for_every_field_at_every_depth(base: dict[str, Any], which: int, key: str) -> None:
    absent, null = copy.deepcopy(base), copy.deepcopy(base)
    places = objects(absent)
    del_from, put_into = places[which % len(places)], objects(null)[which % len(places)]
    del_from.pop(key, None)
    put_into[key] = None
    assert outcome(null) == outcome(absent)


@given(st.dictionaries(keys, st.none(), max_size=5))
def test_any_number_of_nulls_changes_nothing(nulls: dict[str, None]) -> None:
    body = copy.deepcopy(CHAT)
    for place in objects(body):
        for key in nulls.keys() - place.keys():
            place[key] = None
    assert outcome(body) == outcome(CHAT)


def test_the_sdks_own_history_is_taken() -> None:
    answer = ChatCompletionMessage(role="assistant", content="hi", refusal=None, annotations=None, audio=None, tool_calls=None)
    others: dict[str, Any] = {
        "reasoning_content": None,
        "function_call": None,
        "tool_calls": [],
        "annotations": [],
        "provider_specific_fields": None,
    }
    for dumped in (answer.model_dump(), answer.model_dump() | others, answer.model_dump(exclude_unset=True)):
        request = outcome({"model": "m", "messages": [{"role": "user", "content": "hello"}, dumped]})
        assert isinstance(request, ChatRequest), request
        assert (request.messages[1].role, request.messages[1].text) == ("assistant", "hi")


@pytest.mark.parametrize("fields", [
    {"add_generation_prompt": True}, {"continue_final_message": False}, {"include_stop_str_in_output": False},
    {"spaces_between_special_tokens": True}, {"bad_words": []}, {"chat_template_kwargs": {}}, {"length_penalty": 1.0},
    {"top_k": 0}, {"top_k": -1}, {"top_k": -1.0}, {"min_p": 0.0}, {"n": 1.0}, {"tools": []}, {"tool_choice": "auto"},
    {"tool_choice": "none"}, {"parallel_tool_calls": True}, {"logit_bias": {"5": 0}}, {"logit_bias": {"5": None}},
    {"response_format": {"type": "text", "json_schema": None}}, {"modalities": ["text"]}, {"audio": {}}, {"suffix": ""},
    {"web_search_options": {}}, {"prediction": {}}, {"stop_token_ids": []}, {"frequency_penalty": 0}, {"functions": []},
    {"logprobs": False}, {"stream_options": {}}, {"stream_options": {"include_usage": None}},
    {"stream_options": {"include_obfuscation": False}},
])  # fmt: skip
def test_what_asks_for_nothing_is_taken(fields: dict[str, Any]) -> None:
    for base in ({"model": "m", "messages": CHAT["messages"]}, {"model": "m", "prompt": "hello"}):
        request = outcome({**base, **fields})
        assert isinstance(request, ChatRequest | CompletionRequest), request


@pytest.mark.parametrize("stream", [{}, {"stream": False}, {"stream": None}])
def test_stream_options_beside_no_stream_ask_for_what_a_whole_answer_has(stream: dict[str, Any]) -> None:
    assert isinstance(
        outcome({"model": "m", "prompt": "x", **stream, "stream_options": {"include_usage": True}}), CompletionRequest
    )


def test_top_logprobs_of_0_ask_for_nothing_without_logprobs() -> None:
    for logprobs in ({"logprobs": False}, {"logprobs": None}, {}):
        request = outcome({"model": "m", "messages": CHAT["messages"], "top_logprobs": 0, **logprobs})
        assert isinstance(request, ChatRequest) and not request.logprobs


@pytest.mark.parametrize("text", ["16", "16.0", "1.6e1", "160e-1"])
def test_whole_numbers_may_be_written_as_fractions(text: str) -> None:
    body = b'{"model": "m", "prompt": [3.0, 4], "max_tokens": %b, "seed": 1e2, "logprobs": 2.0}' % text.encode()
    request = parse_completion(body)
    assert (request.prompt, request.max_tokens, request.seed, request.logprobs) == ([3, 4], 16, 100, 2)
    assert type(request.max_tokens) is int


@pytest.mark.parametrize(("fields", "path"), [
    ({"top_k": -2}, "top_k"),
    ({"top_k": 5.5}, "top_k"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"logit_bias": {"5": False}}, "logit_bias[...]"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
    ({"messages": [{"role": "user", "content": "x", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].id"),
    ({"messages": [{"role": "user", "content": "x", "reasoning_content": "hm"}]}, "messages[0].reasoning_content"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]}]},
     "messages[0].content[0].cache_control"),
    ({"max_tokens": 16.5}, "max_tokens"),
    ({"seed": 1e19}, "seed"),
])  # fmt: skip
def test_what_asks_for_something_is_refused_with_its_path(fields: dict[str, Any], path: str) -> None:
    refusal = outcome({"model": "m", "messages": CHAT["messages"], **fields})
    assert refusal.param == path and f"`{path}`" in refusal.message
    assert refusal.code


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
)


@given(json_values)
def test_a_plain_value_has_no_nulls_in_objects_and_stays_plain(value: Any) -> None:
    found = plain(value)
    assert all(item is not None for place in objects(found) for item in place.values())
    assert plain(found) == found
