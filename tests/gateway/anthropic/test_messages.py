"""Answers in Anthropic's words: their events follow its grammar, and say the same as a whole body."""

import json
from typing import Any

import pytest
from hypothesis import given, settings

from prfaas.contracts.to_gateway import GenerateEvent
from prfaas_gateway.anthropic.dialect import MESSAGES
from prfaas_gateway.openai.errors import ApiError
from prfaas_gateway.openai.tool_use import ToolUse
from tests.budget import examples
from tests.gateway.openai.block_answers import USE, answers, asked, call_text, events_of, progress, uses

ASK: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
Event = dict[str, Any]


def request(**fields: Any) -> Any:
    return MESSAGES.parse(json.dumps(ASK | fields).encode(), None)


def whole(events: list[GenerateEvent], use: ToolUse | None = None, **fields: Any) -> Any:
    answer = MESSAGES.whole(asked(request(**fields), use), progress())
    for event in events:
        answer.handle(event)
    return json.loads(b"".join(answer.body()))


def read(data: bytes) -> list[Event]:
    """Server-sent events, each of which is named as its data says."""
    told = []
    *blocks, nothing = data.decode().split("\n\n")
    assert nothing == ""
    for block in blocks:
        named, said = block.split("\n")
        told.append(json.loads(said.removeprefix("data: ")))
        assert named == f"event: {told[-1]['type']}"
    return told


def stream(events: list[GenerateEvent], use: ToolUse | None = None, *, report: bool = False, **fields: Any) -> list[Event]:
    answer = MESSAGES.streamed(asked(request(**fields), use, report=report), progress())
    return read(b"".join(map(answer.handle, events)))


def test_a_text_streamed_is_these_events() -> None:
    usage = {"input_tokens": 3, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 2, "output_tokens": 0}
    head: dict[str, Any] = {
        "id": "msg_r", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None,
        "stop_sequence": None, "usage": usage,
    }  # fmt: skip
    assert stream(events_of(["hel", "", "lo"])) == [
        {"type": "message_start", "message": head},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hel"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "lo"}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": usage | {"output_tokens": 3},
        },
        {"type": "message_stop"},
    ]


def test_a_call_streamed_is_these_events() -> None:
    told = stream(events_of(["I see.", call_text({"a": 1})]), USE)[4:]
    begun, delta, ended, end, _ = told
    name = begun["content_block"].pop("id")
    assert name.isalnum()
    assert begun == {
        "type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "name": "look", "input": {}},
    }  # fmt: skip
    assert delta["delta"] == {"type": "input_json_delta", "partial_json": '{"a": 1}'}
    assert (ended["index"], end["delta"]["stop_reason"]) == (1, "tool_use")


def test_a_whole_answer() -> None:
    answer = whole(events_of(["I see.", call_text({"a": None}), call_text({})]), USE)
    assert [block.pop("id") for block in answer["content"][1:]]
    assert answer == {
        "id": "msg_r", "type": "message", "role": "assistant", "model": "m",
        "content": [
            {"type": "text", "text": "I see."},
            {"type": "tool_use", "name": "look", "input": {"a": None}},
            {"type": "tool_use", "name": "look", "input": {}},
        ],
        "stop_reason": "tool_use", "stop_sequence": None,
        "usage": {"input_tokens": 3, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 2, "output_tokens": 3},
    }  # fmt: skip


@settings(max_examples=examples(300), deadline=None)
@given(answers, uses)
def test_a_stream_keeps_the_grammar_and_says_what_the_whole_body_says(events: list[GenerateEvent], use: ToolUse | None) -> None:
    first, *told, before_last, last = stream(events, use)
    assert (first["type"], before_last["type"], last) == ("message_start", "message_delta", {"type": "message_stop"})
    message = first["message"]
    open_index: int | None = None
    for event in told:
        kind, index = event["type"].removeprefix("content_block_"), event["index"]
        if kind == "start":
            assert open_index is None and index == len(message["content"])
            open_index = index
            message["content"].append(event["content_block"])
            arguments = ""
        else:
            assert index == open_index
            block = message["content"][index]
            if kind == "stop":
                open_index = None
                if block["type"] == "tool_use":
                    block["input"] = _object(arguments)
            elif event["delta"]["type"] == "text_delta":
                assert block["type"] == "text"
                block["text"] += event["delta"]["text"]
            else:
                assert (event["delta"]["type"], block["type"]) == ("input_json_delta", "tool_use")
                arguments += event["delta"]["partial_json"]
    assert open_index is None
    message |= before_last["delta"] | {"usage": before_last["usage"]}
    assert _without_ids(message) == _without_ids(whole(events, use))


def _object(arguments: str) -> Any:
    try:
        return json.loads(arguments or "{}")
    except ValueError:
        return {"raw_arguments": arguments}


def _without_ids(message: dict[str, Any]) -> Any:
    return {**message, "content": [{**block, "id": ""} for block in message["content"]]}


@pytest.mark.parametrize(("reason", "stop", "told"), [
    ("stop", "", ("end_turn", None)),
    ("stop", "x", ("stop_sequence", "x")),
    # The end of a base model's turn, which is not the client's.
    ("stop", "\nQ:", ("end_turn", None)),
    ("length", "", ("max_tokens", None)),
])  # fmt: skip
def test_reasons_for_an_end(reason: str, stop: str, told: tuple[str, str | None]) -> None:
    answer = whole(events_of(["a"], reason=reason, stop=stop), stop_sequences=["y", "x"])
    assert (answer["stop_reason"], answer["stop_sequence"]) == told


@pytest.mark.parametrize("arguments", ["[1]", '{"a": ', '{"a": "\\ud800"}', "{" * 4000])
def test_arguments_that_are_no_object_come_as_they_are(arguments: str) -> None:
    written = f'<tool_call>{{"name": "look", "arguments": {arguments}'
    (block,) = whole(events_of([written], reason="length"), USE)["content"]
    assert block["input"] == {"raw_arguments": arguments}


def test_the_report_comes_at_the_end() -> None:
    first, *_, last, _ = stream(events_of(["a"]), report=True)
    assert "prfaas" not in first["message"]["usage"]
    assert last["usage"]["prfaas"]["prefill_site"] == "east"


@pytest.mark.parametrize(("status", "kind"), [
    (400, "invalid_request_error"), (401, "authentication_error"), (404, "not_found_error"), (405, "invalid_request_error"),
    (413, "request_too_large"), (429, "rate_limit_error"), (500, "api_error"), (503, "overloaded_error"),
])  # fmt: skip
def test_errors_have_anthropics_shape(status: int, kind: str) -> None:
    expected = {"type": "error", "error": {"type": kind, "message": "No."}}
    assert json.loads(MESSAGES.error(ApiError(status, "No."))) == expected
    answer = MESSAGES.streamed(asked(request()), progress())
    assert read(answer.failed(ApiError(status, "No."))) == [expected]
