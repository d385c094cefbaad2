"""Answers of the Responses API: their events follow its grammar, and say the same as a whole body."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from openai._models import validate_type
from openai.types.responses import Response, ResponseStreamEvent

from prfaas.contracts.to_gateway import GenerateEvent
from prfaas_gateway.openai.errors import ApiError
from prfaas_gateway.openai.responses.dialect import RESPONSES
from prfaas_gateway.openai.tool_use import ToolUse
from tests.budget import examples
from tests.gateway.openai.block_answers import USE, answers, asked, call_text, events_of, progress, uses

Event = dict[str, Any]
USAGE = {
    "input_tokens": 5, "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0}, "output_tokens": 2,
    "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 7,
}  # fmt: skip


def request(**fields: Any) -> Any:
    return RESPONSES.parse(json.dumps({"model": "m", "input": "hello"} | fields).encode())


def whole(events: list[GenerateEvent], use: ToolUse | None = None, *, report: bool = False, **fields: Any) -> Any:
    answer = RESPONSES.whole(asked(request(**fields), use, report=report), progress())
    for event in events:
        answer.handle(event)
    return json.loads(b"".join(answer.body()))


def read(data: bytes) -> list[Event]:
    """Server-sent events, each named as its data says, numbered from 0."""
    told: list[Event] = []
    *blocks, nothing = data.decode().split("\n\n")
    assert nothing == ""
    for number, block in enumerate(blocks):
        named, said = block.split("\n")
        told.append(json.loads(said.removeprefix("data: ")))
        assert (named, told[-1].pop("sequence_number")) == (f"event: {told[-1]['type']}", number)
    return told


def stream(events: list[GenerateEvent], use: ToolUse | None = None, **fields: Any) -> list[Event]:
    answer = RESPONSES.streamed(asked(request(**fields), use), progress())
    return read(b"".join(map(answer.handle, events)))


def part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def test_a_text_streamed_is_these_events() -> None:
    created, in_progress, *told, last = stream(events_of(["hel", "lo"]))
    assert created["response"]["status"] == "in_progress" and created["response"]["usage"] is None
    assert [created["type"], in_progress] == ["response.created", {**created, "type": "response.in_progress"}]
    at: dict[str, Any] = {"item_id": "msg_r_0", "output_index": 0, "content_index": 0}
    item = {"id": "msg_r_0", "type": "message", "role": "assistant"}
    done = {**item, "status": "completed", "content": [part("hello")]}
    assert told == [
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "status": "in_progress", "content": []}},
        {"type": "response.content_part.added", **at, "part": part("")},
        {"type": "response.output_text.delta", **at, "delta": "hel", "logprobs": []},
        {"type": "response.output_text.delta", **at, "delta": "lo", "logprobs": []},
        {"type": "response.output_text.done", **at, "text": "hello", "logprobs": []},
        {"type": "response.content_part.done", **at, "part": part("hello")},
        {"type": "response.output_item.done", "output_index": 0, "item": done},
    ]
    assert (last["type"], last["response"]["output"], last["response"]["usage"]) == ("response.completed", [done], USAGE)


def test_a_call_streamed_is_these_events() -> None:
    *_, added, delta, done, item_done, last = stream(events_of(["I see.", call_text({"a": 1})]), USE)
    call_id = added["item"]["call_id"]
    item = {"id": "fc_r_1", "type": "function_call", "call_id": call_id, "name": "look"}
    at = {"item_id": "fc_r_1", "output_index": 1}
    assert [added, delta, done, item_done] == [
        {"type": "response.output_item.added", "output_index": 1, "item": {**item, "status": "in_progress", "arguments": ""}},
        {"type": "response.function_call_arguments.delta", **at, "delta": '{"a": 1}'},
        {"type": "response.function_call_arguments.done", **at, "name": "look", "arguments": '{"a": 1}'},
        {
            "type": "response.output_item.done",
            "output_index": 1,
            "item": {**item, "status": "completed", "arguments": '{"a": 1}'},
        },
    ]
    assert [each["type"] for each in last["response"]["output"]] == ["message", "function_call"]


@settings(max_examples=examples(300), deadline=None)
@given(answers, uses)
def test_a_stream_keeps_the_grammar_and_says_what_the_whole_body_says(events: list[GenerateEvent], use: ToolUse | None) -> None:
    first, second, *told, last = stream(events, use)
    assert (first["type"], second["type"]) == ("response.created", "response.in_progress")
    output: list[dict[str, Any]] = []
    open_item: dict[str, Any] | None = None
    grown = ""
    for event in told:
        assert event["output_index"] == len(output) - (open_item is not None)
        match event["type"].removeprefix("response."):
            case "output_item.added":
                assert open_item is None
                open_item = event["item"]
                grown = ""
                output.append(open_item)
            case "content_part.added":
                assert open_item is not None and not open_item["content"]
                open_item["content"].append(event["part"])
            case "output_text.delta" | "function_call_arguments.delta":
                assert open_item is not None and event["item_id"] == open_item["id"]
                grown += event["delta"]
            case "output_text.done":
                assert event["text"] == grown
            case "content_part.done":
                assert event["part"]["text"] == grown
            case "function_call_arguments.done":
                assert event["arguments"] == grown
            case "output_item.done":
                assert open_item is not None and open_item["id"] == event["item"]["id"]
                output[-1] = event["item"]
                assert grown == (event["item"]["arguments"] if "arguments" in event["item"] else _text(event["item"]))
                open_item = None
            case kind:
                raise AssertionError(kind)
    assert open_item is None and output
    assert last["type"] == f"response.{last['response']['status']}"
    assert output == last["response"]["output"]
    assert _without_ids(last["response"]) == _without_ids(whole(events, use))


def _text(item: dict[str, Any]) -> str:
    (only,) = item["content"]
    return str(only["text"])


def _without_ids(response: dict[str, Any]) -> Any:
    return {**response, "output": [{**item, "call_id": ""} for item in response["output"]]}


@settings(max_examples=examples(60), deadline=None)
@given(answers, uses)
def test_openais_own_types_take_every_event(events: list[GenerateEvent], use: ToolUse | None) -> None:
    kind: Any = ResponseStreamEvent
    for number, event in enumerate(stream(events, use)):
        validate_type(type_=kind, value=event | {"sequence_number": number})
    Response.model_validate(whole(events, use))


def test_an_answer_without_text_is_one_empty_text() -> None:
    (item,) = whole(events_of([]))["output"]
    assert item["content"] == [part("")]


def test_an_answer_that_is_cut_off_is_incomplete() -> None:
    written = events_of(["I see.", '<tool_call>{"name": "look", "arguments": {"a"'], reason="length")
    answer = whole(written, USE)
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert [item["status"] for item in answer["output"]] == ["completed", "incomplete"]
    assert stream(written, USE)[-1]["type"] == "response.incomplete"


def test_an_answer_repeats_what_it_was_asked() -> None:
    tool = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {"a": {"enum": [None]}}}}
    fields: dict[str, Any] = {
        "instructions": "Be kind.", "metadata": {"a": "b"}, "tools": [tool], "tool_choice": {"type": "function", "name": "look"},
        "parallel_tool_calls": False, "max_output_tokens": 9,
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {"enum": [None]}, "strict": True}},
    }  # fmt: skip
    answer = whole(events_of(["a"]), report=True, **fields)
    told = {"description": None, "strict": None}
    assert {name: answer[name] for name in fields} == fields | {"tools": [tool | told]}
    assert (answer["store"], answer["previous_response_id"], answer["temperature"]) == (False, None, 1.0)
    assert answer["usage"]["prfaas"]["prefill_site"] == "east"


@pytest.mark.parametrize(("status", "code"), [(429, "rate_limit_exceeded"), (500, "server_error"), (503, "server_error")])
def test_a_stream_that_fails_says_so_with_what_has_come(status: int, code: str) -> None:
    answer = RESPONSES.streamed(asked(request()), progress())
    begun = [answer.handle(event) for event in events_of(["hel", "lo"])[:-1]]
    *_, last = read(b"".join([*begun, answer.failed(ApiError(status, "No."))]))
    response = last["response"]
    assert (last["type"], response["status"], response["error"]) == (
        "response.failed",
        "failed",
        {"code": code, "message": "No."},
    )
    assert [(item["status"], _text(item)) for item in response["output"]] == [("incomplete", "hello")]


@pytest.mark.parametrize(("error", "param", "message"), [
    (ApiError(400, "`messages` is long; `max_tokens` too.", param="messages"), "input",
     "`input` is long; `max_output_tokens` too."),
    (ApiError(400, "`response_format.json_schema.schema` is bad.", param="response_format.json_schema.schema"),
     "text.format.schema", "`text.format.schema` is bad."),
    (ApiError(400, "`response_format` and messages", param="response_format"), "text.format", "`text.format` and messages"),
    (ApiError(400, "`messages[0].role`", param="messages[0].role"), "input[0].role", "`input[0].role`"),
    (ApiError(400, "`messages_too`", param="messages_too"), "messages_too", "`messages_too`"),
    (ApiError(400, "x", param="tool_choice.function.name"), "tool_choice.name", "x"),
    (ApiError(500, "`max_tokens`"), None, "`max_output_tokens`"),
])  # fmt: skip
def test_errors_name_fields_as_this_endpoint_does(error: ApiError, param: str | None, message: str) -> None:
    told = json.loads(RESPONSES.error(error))["error"]
    assert (told["param"], told["message"]) == (param, message)
