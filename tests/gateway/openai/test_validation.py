import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import completion_create_params as completion_params
from openai.types.chat import completion_create_params as chat_params

from prfaas.contracts.to_decode import Sampling
from prfaas_gateway.openai.errors import ApiError
from prfaas_gateway.openai.fields import INERT
from prfaas_gateway.openai.types import ChatRequest, CompletionRequest
from prfaas_gateway.openai.unsupported import UNSUPPORTED, UNSUPPORTED_IN_CHAT
from prfaas_gateway.openai.validation import parse_chat, parse_completion, sampling_of
from tests.budget import examples
from tests.gateway.bodies import HELLO, bodies, values

CALL: Any = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def completion(**fields: Any) -> CompletionRequest:
    return parse_completion(json.dumps({"model": "m", "prompt": "hello", **fields}).encode())


def chat(**fields: Any) -> ChatRequest:
    return parse_chat(json.dumps({"model": "m", "messages": HELLO, **fields}).encode())


def sampling(request: CompletionRequest | ChatRequest, **changes: Any) -> Sampling:
    return sampling_of(request, **{"prompt_tokens": 10, "context_tokens": 100, "default_max_tokens": 16, **changes})


def refused(raises: pytest.ExceptionInfo[ApiError]) -> tuple[int, str | None, str | None]:
    return raises.value.status, raises.value.body.param, raises.value.body.code


def test_minimal_requests_get_openais_defaults() -> None:
    assert sampling(completion()) == Sampling(max_tokens=16)
    assert sampling(chat()) == Sampling(max_tokens=16)
    assert not completion().stream


def test_everything_supported_reaches_the_sampler() -> None:
    request = chat(
        max_completion_tokens=7, min_tokens=2, temperature=0, top_p=0.5, top_k=9, min_p=0.1, repetition_penalty=1.1, seed=-3,
        stop=["a", "b"], ignore_eos=True, logprobs=True, top_logprobs=4, presence_penalty=-0.5, frequency_penalty=2,
        logit_bias={"7": 3, "8": 0, "9": -100}, stop_token_ids=[4, 5], bad_words=["x"],
    )  # fmt: skip
    assert sampling(request, extra_stop=("c",), bad_words=((1, 2),)) == Sampling(
        max_tokens=7,
        min_tokens=2,
        temperature=0,
        top_p=0.5,
        top_k=9,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=-0.5,
        frequency_penalty=2,
        logit_bias=((7, 3), (9, -100)),
        bad_words=((1, 2),),
        stop_token_ids=(4, 5),
        seed=-3,
        stop=("a", "b"),
        ignore_eos=True,
        top_logprobs=4,
    )


def test_the_models_end_of_turn_ends_an_answer_unless_ends_are_ignored() -> None:
    assert sampling(chat(stop=["a"]), extra_stop=("c",)).stop == ("a", "c")
    assert sampling(chat(stop=["a"], ignore_eos=False, min_tokens=3), extra_stop=("c",)).stop == ("a", "c")
    assert sampling(chat(ignore_eos=True), extra_stop=("c",)).stop == ()


@pytest.mark.parametrize(("request_", "expected"), [
    (completion(), None), (completion(logprobs=0), 0), (completion(logprobs=5), 5),
    (chat(), None), (chat(logprobs=True), 0), (chat(logprobs=True, top_logprobs=0), 0), (chat(logprobs=False), None),
])  # fmt: skip
def test_logprobs_in_both_dialects(request_: CompletionRequest | ChatRequest, expected: int | None) -> None:
    assert sampling(request_).top_logprobs == expected


def test_nulls_are_absent_fields() -> None:
    request = completion(
        max_tokens=None, stop=None, temperature=None, tools=None, user=None, stream_options=None, frobnicate=None
    )
    assert request == completion()


@pytest.mark.parametrize(("fields", "param"), [
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": "7"}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_tokens": 10**30}, "max_tokens"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
    ({"min_tokens": -1}, "min_tokens"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"n": True}, "n"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 1.1}, "min_p"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"presence_penalty": 2.1}, "presence_penalty"),
    ({"frequency_penalty": -2.1}, "frequency_penalty"),
    ({"frequency_penalty": False}, "frequency_penalty"),
    ({"logit_bias": {"hello": 1}}, "logit_bias"),
    ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ({"logit_bias": {"5": 101}}, "logit_bias[...]"),
    ({"logit_bias": {"5": False}}, "logit_bias[...]"),
    ({"logit_bias": {str(each): 1 for each in range(1025)}}, "logit_bias"),
    ({"stop_token_ids": [1, -1]}, "stop_token_ids[1]"),
    ({"stop_token_ids": 3}, "stop_token_ids"),
    ({"bad_words": ["a", ""]}, "bad_words[1]"),
    ({"bad_words": [3]}, "bad_words[0]"),
    ({"seed": 2**63}, "seed"),
    ({"seed": 1.5}, "seed"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a", 1]}, "stop[1]"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
    ({"stream": 1}, "stream"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"stream": True, "stream_options": {"include_everything": True}}, "stream_options.include_everything"),
    ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
    ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"model": 3}, "model"),
    ({"model": None}, "model"),
    ({"user": 3}, "user"),
    ({"metadata": {"a": 1}}, "metadata[...]"),
    ({"frobnicate": 1}, "frobnicate"),
])  # fmt: skip
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    for ask in (completion, chat):
        with pytest.raises(ApiError) as raises:
            ask(**fields)
        assert refused(raises)[:2] == (400, param)
        assert f"`{param}`" in raises.value.body.message


@pytest.mark.parametrize(("fields", "param"), [
    ({"prompt": None}, "prompt"),
    ({"prompt": 3}, "prompt"),
    ({"prompt": {}}, "prompt"),
    ({"prompt": ["a"] * 129}, "prompt"),
    ({"prompt": ["a", [1]]}, "prompt[1]"),
    ({"prompt": [[1], "a"]}, "prompt[1]"),
    ({"prompt": [[1], [2, "a"]]}, "prompt[1][1]"),
    ({"prompt": [1, [2]]}, "prompt[1]"),
    ({"n": 3, "best_of": 2}, "best_of"),
    ({"n": 1, "best_of": 2, "stream": True}, "best_of"),
    ({"best_of": 0}, "best_of"),
    ({"prompt": [1, "a"]}, "prompt[1]"),
    ({"prompt": [1, True]}, "prompt[1]"),
    ({"logprobs": True}, "logprobs"),
    ({"logprobs": 6}, "logprobs"),
    ({"messages": HELLO}, "messages"),
])  # fmt: skip
def test_what_is_wrong_with_a_completion_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as raises:
        completion(**fields)
    assert refused(raises)[:2] == (400, param)


@pytest.mark.parametrize(("prompt", "expected"), [
    ("hi", ["hi"]), (["hi"], ["hi"]), ([1, 2], [[1, 2]]), ([[1, 2]], [[1, 2]]), ("", [""]), ([], [[]]), ([""], [""]),
    ([[]], [[]]), (["a", "b"], ["a", "b"]), ([[1], [2, 3]], [[1], [2, 3]]), ([[], []], [[], []]),
])  # fmt: skip
def test_prompt_forms(prompt: Any, expected: list[str] | list[list[int]]) -> None:
    assert completion(prompt=prompt).prompts == expected


def test_the_best_of_several_needs_their_log_probabilities() -> None:
    assert sampling(completion(best_of=3)).top_logprobs == 0
    assert sampling(completion(best_of=3, logprobs=2)).top_logprobs == 2
    assert sampling(completion(best_of=3, n=3)).top_logprobs is None


def test_best_of_is_for_completions_alone() -> None:
    with pytest.raises(ApiError) as raises:
        chat(best_of=2)
    assert refused(raises) == (400, "best_of", "unsupported_parameter")
    assert chat(best_of=1) == chat()


@pytest.mark.parametrize(("messages", "param"), [
    (None, "messages"),
    ([], "messages"),
    ("hi", "messages"),
    ([3], "messages[0]"),
    ([{"role": "user"}], "messages[0].content"),
    ([{"role": "user", "content": None}], "messages[0].content"),
    ([{"role": "user", "content": 3}], "messages[0].content"),
    ([{"role": "user", "content": []}], "messages[0].content"),
    ([{"content": "hi"}], "messages[0].role"),
    ([{"role": "wizard", "content": "hi"}], "messages[0].role"),
    ([*HELLO, {"role": "function", "content": "hi", "name": "x"}], "messages[1].role"),
    ([*HELLO, {"role": "tool", "content": "hi"}], "messages[1].tool_call_id"),
    ([{"role": "user", "content": "hi", "tool_call_id": "x"}], "messages[0].tool_call_id"),
    ([{"role": "user", "content": "hi", "tool_calls": [CALL]}], "messages[0].tool_calls"),
    ([{"role": "assistant", "content": "hi", "tool_calls": [{}]}], "messages[0].tool_calls[0].id"),
    ([{"role": "assistant", "content": None, "tool_calls": []}], "messages[0].content"),
    ([{"role": "user", "content": [{"type": "text", "text": 3}]}], "messages[0].content[0].text"),
    ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}], "messages[0].content[1].type"),
    ([{"role": "user", "content": "hi", "mood": "good"}], "messages[0].mood"),
])  # fmt: skip
def test_what_is_wrong_with_messages_is_named(messages: Any, param: str) -> None:
    with pytest.raises(ApiError) as raises:
        chat(messages=messages)
    assert refused(raises)[:2] == (400, param)


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    message = {"role": "assistant", "content": parts, "tool_calls": None, "refusal": None}
    assert chat(messages=[message]).messages[0].text == "hello"


def test_top_logprobs_needs_logprobs() -> None:
    with pytest.raises(ApiError) as raises:
        chat(top_logprobs=2)
    assert refused(raises) == (400, "top_logprobs", "invalid_value")


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_the_unsupported_is_refused_by_name_and_its_neutral_value_accepted(name: str) -> None:
    for ask in (completion, chat):
        with pytest.raises(ApiError) as raises:
            ask(**{name: {"surely": "not neutral"}})
        assert refused(raises) == (400, name, "unsupported_parameter")
    if isinstance(UNSUPPORTED[name], int | float | str | list | dict | bool):
        assert chat(**{name: UNSUPPORTED[name]}) == chat()


@pytest.mark.parametrize(("name", "value"), [("echo", 0), ("tools", [{}])])
def test_what_only_looks_neutral_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ApiError) as raises:
        completion(**{name: value})
    assert refused(raises)[1] == name


@pytest.mark.parametrize(("struct", "params"), [
    (ChatRequest, chat_params.CompletionCreateParamsBase),
    (CompletionRequest, completion_params.CompletionCreateParamsBase),
])  # fmt: skip
def test_nothing_that_the_openai_client_can_send_is_unknown_to_us(struct: type[msgspec.Struct], params: type) -> None:
    known = {field.name for field in msgspec.structs.fields(struct)} | set(UNSUPPORTED) | set(UNSUPPORTED_IN_CHAT) | set(INERT)
    assert set(params.__annotations__) <= known


def test_inert_fields_are_accepted() -> None:
    values = {str: "x", bool: True, dict[str, str]: {"a": "b"}, dict: {"a": 1}}
    assert chat(**{name: values[kind] for name, kind in INERT.items()}) == chat()


@pytest.mark.parametrize(("body", "says"), [
    (b"", "not valid JSON"),
    (b"{", "not valid JSON"),
    (b"hello", "not valid JSON"),
    (b"[]", "an array"),
    (b"null", "null"),
    (b"3", "a number"),
    (b'{"model": NaN}', "not valid JSON"),
    (b'{"temperature": 1e999}', "not valid JSON"),
    (b'{"model": "\xff"}', "not valid UTF-8: byte 0xff"),
    (b'{"\xc3\x28": 1}', "not valid UTF-8"),
    (b'{"model": "\\ud800"}', "not valid JSON"),
    (b"[" * 100_000, "nested too deeply"),
    (b'{"a":' * 100_000, "nested too deeply"),
])  # fmt: skip
def test_bodies_that_are_no_json_object(body: bytes, says: str) -> None:
    for parse in (parse_completion, parse_chat):
        with pytest.raises(ApiError, match=says) as raises:
            parse(body)
        assert raises.value.status == 400


def test_context_length() -> None:
    assert sampling(completion(max_tokens=90)).max_tokens == 90
    assert sampling(completion(), prompt_tokens=99).max_tokens == 1
    for request, tokens in ((completion(max_tokens=91), 10), (completion(), 100), (completion(max_tokens=1), 1000)):
        with pytest.raises(ApiError) as raises:
            sampling(request, prompt_tokens=tokens)
        assert refused(raises) == (400, "prompt", "context_length_exceeded")
    with pytest.raises(ApiError) as raises:
        sampling(chat(), prompt_tokens=1000)
    assert refused(raises) == (400, "messages", "context_length_exceeded")


def test_min_tokens_may_not_exceed_max_tokens() -> None:
    with pytest.raises(ApiError) as raises:
        sampling(completion(max_tokens=3, min_tokens=4))
    assert refused(raises)[:2] == (400, "min_tokens")


def check_any_body(body: bytes) -> None:
    parsers: list[Callable[[bytes], CompletionRequest | ChatRequest]] = [parse_completion, parse_chat]
    for parse in parsers:
        try:
            request = parse(body)
            settled = sampling_of(request, prompt_tokens=10, context_tokens=2**31, default_max_tokens=5)
            assert settled.min_tokens <= settled.max_tokens
        except ApiError as error:
            answer = json.loads(error.encode())["error"]
            assert error.status == 400
            assert answer["message"]
            assert answer["type"] == "invalid_request_error"


@settings(max_examples=examples(400), deadline=None)
@given(bodies | values)
def test_any_json_gives_a_request_or_an_openai_error(body: Any) -> None:
    check_any_body(json.dumps(body).encode())


@settings(max_examples=examples(200), deadline=None)
@given(st.binary(max_size=64))
def test_any_bytes_give_a_request_or_an_openai_error(body: bytes) -> None:
    check_any_body(body)
