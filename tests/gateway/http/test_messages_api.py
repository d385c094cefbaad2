"""`/v1/messages` as Anthropic's clients see it, over a real nats-server and the real HTTP server."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from prfaas.contracts.to_decode import Generate
from prfaas.contracts.wire import unpack_tokens
from prfaas.secrets.tenants_file import Limits
from prfaas_gateway.http import pings
from tests.gateway.anthropic.test_messages import read
from tests.gateway.conftest import Edge, make_tenants, running_edge
from tests.gateway.scripted_site import Emitter
from tests.gateway.tiny_tokenizer import BOS, ids

ASK: dict[str, Any] = {"model": "tiny", "max_tokens": 9, "messages": [{"role": "user", "content": "hello world"}]}
TOOLS = [{"name": "look", "input_schema": {"type": "object", "properties": {}}}]


async def test_a_whole_answer(edge: Edge) -> None:
    body = ASK | {"system": "x", "stop_sequences": ["A"], "temperature": 0, "top_k": 5}
    answer = await edge.post("/v1/messages", body, anthropic_version="2023-06-01", x_prfaas_report="1")
    assert answer.status_code == 200 and answer.headers["x-prfaas-prefill-site"] == "east"
    told = answer.json()
    assert told["usage"].pop("prfaas")["outcome"] == "offloaded"
    assert told.pop("id").startswith("msg_")
    assert told == {
        "type": "message", "role": "assistant", "model": "tiny", "content": [{"type": "text", "text": "hello world"}],
        "stop_reason": "end_turn", "stop_sequence": None,
        "usage": {"input_tokens": 8, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 2, "output_tokens": 4},
    }  # fmt: skip
    (generate,) = edge.site.generated
    assert unpack_tokens(generate.token_ids) == [BOS, *ids("system", ":", "x", "user", ":", "hello", "world", "A", ":")]
    found = generate.sampling
    assert (found.max_tokens, found.stop, found.temperature, found.top_k) == (9, ("A", "\nQ:"), 0, 5)


async def test_a_stop_sequence_is_named(edge: Edge) -> None:
    async def script(_generate: Generate, emit: Emitter) -> None:
        await emit.started()
        await emit.tokens("hello")
        await emit.finished(1, stop="A")

    edge.site.script = script
    told = (await edge.post("/v1/messages", ASK | {"stop_sequences": ["A"]})).json()
    assert (told["stop_reason"], told["stop_sequence"]) == ("stop_sequence", "A")


async def test_a_stream_says_what_the_whole_answer_says(calling: Edge) -> None:
    whole = (await calling.post("/v1/messages", ASK | {"tools": TOOLS})).json()
    answer = await calling.post("/v1/messages", ASK | {"tools": TOOLS, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = read(answer.content)
    assert [event["type"] for event in events[:3]] == ["message_start", "content_block_start", "content_block_delta"]
    assert [block["type"] for block in whole["content"]] == ["text", "tool_use", "tool_use"]
    assert whole["content"][1]["input"] == {"at": "a b"}
    parts = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(part.get("text", "") for part in parts) == "I see."
    assert [part["partial_json"] for part in parts if "partial_json" in part] == ['{"at": "a', ' b"}', "{}"]
    *_, end, last = events
    assert end["delta"] == {"stop_reason": "tool_use", "stop_sequence": None} and last == {"type": "message_stop"}
    assert end["usage"] == whole["usage"] and whole["stop_reason"] == "tool_use"


async def test_calls_and_their_results_go_back_as_history(calling: Edge) -> None:
    first = (await calling.post("/v1/messages", ASK | {"tools": TOOLS})).json()
    results = [
        {"type": "tool_result", "tool_use_id": block["id"], "content": "world"}
        for block in first["content"]
        if block["type"] == "tool_use"
    ]
    history = [*ASK["messages"], {"role": "assistant", "content": first["content"]}, {"role": "user", "content": results}]
    again = await calling.post("/v1/messages", ASK | {"tools": TOOLS, "messages": history})
    assert again.status_code == 200, again.text


async def test_a_call_that_must_come_is_a_grammar(calling: Edge) -> None:
    answer = await calling.post("/v1/messages", ASK | {"tools": TOOLS, "tool_choice": {"type": "any"}})
    assert answer.status_code == 200
    assert "<tool_call>" in calling.site.generated[0].sampling.grammar


async def test_an_answer_goes_on_with_what_the_assistant_has_said(edge: Edge) -> None:
    body = ASK | {"messages": [*ASK["messages"], {"role": "assistant", "content": "hello"}]}
    assert (await edge.post("/v1/messages", body)).status_code == 200
    (generate,) = edge.site.generated
    assert unpack_tokens(generate.token_ids)[-3:] == ids("assistant", ":", "hello")


async def test_tokens_are_counted_as_the_answer_counts_them(edge: Edge) -> None:
    body = {name: value for name, value in ASK.items() if name != "max_tokens"} | {"system": "x"}
    answer = await edge.post("/v1/messages/count_tokens", body)
    assert (answer.status_code, answer.json()) == (200, {"input_tokens": 10})
    assert not edge.site.placed
    # Read beside the gateway; a count may well be more than what the context holds.
    large = await edge.post("/v1/messages/count_tokens", body | {"system": "hello " * 20_000})
    assert large.json() == {"input_tokens": 20_009}


async def test_a_large_request_is_read_beside_the_gateway(edge: Edge) -> None:
    body = ASK | {"tools": [], "metadata": {"user_id": "u" * 100_000}}
    assert (await edge.post("/v1/messages", body)).json()["content"] == [{"type": "text", "text": "hello world"}]


@pytest.mark.parametrize(("body", "status", "kind", "says"), [
    (b"{", 400, "invalid_request_error", "JSON"),
    (ASK | {"thinking": {"type": "enabled"}}, 400, "invalid_request_error", "`thinking`"),
    (ASK | {"model": "gone"}, 404, "not_found_error", "`gone`"),
    (ASK | {"tools": TOOLS}, 400, "invalid_request_error", "`tools`"),
    (ASK | {"max_tokens": 99}, 400, "invalid_request_error", "context"),
])  # fmt: skip
async def test_errors_have_anthropics_shape(edge: Edge, body: Any, status: int, kind: str, says: str) -> None:
    answer = await edge.post("/v1/messages", body)
    told = answer.json()
    assert (answer.status_code, told["type"], told["error"]["type"]) == (status, "error", kind)
    assert says in told["error"]["message"] and answer.headers["x-should-retry"] == "false"


async def test_strange_paths_and_methods_below_it_have_anthropics_shape(edge: Edge) -> None:
    for answer, status in (
        (await edge.get("/v1/messages"), 405),
        (await edge.post("/v1/messages/batches", {}), 404),
    ):
        assert (answer.status_code, answer.json()["type"]) == (status, "error")
    assert "param" in (await edge.get("/v1/messagesx")).json()["error"]


async def test_a_stream_that_fails_ends_with_an_error(edge: Edge) -> None:
    async def script(_generate: Generate, emit: Emitter) -> None:
        await emit.started()
        await emit.tokens("hello")
        await emit.failed("engine", "the device is gone")

    edge.site.script = script
    events = read((await edge.post("/v1/messages", ASK | {"stream": True})).content)
    assert events[-1] == {"type": "error", "error": {"type": "api_error", "message": "The device is gone."}}
    assert events[-2]["type"] == "content_block_delta"


async def test_a_stream_that_is_silent_for_long_pings(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = asyncio.Event()

    async def script(_generate: Generate, emit: Emitter) -> None:
        await emit.started()
        await go_on.wait()
        await emit.tokens("hello")
        await emit.finished(1)

    edge.site.script = script
    monkeypatch.setattr(pings, "PING_AFTER_S", 0.02)
    data = b""
    async with edge.http.stream("POST", "/v1/messages", json=ASK | {"stream": True}) as answer:
        async for part in answer.aiter_bytes():
            data += part
            if data.count(b"event: ping\n") >= 2:
                go_on.set()
    told = [event["type"] for event in read(data) if event["type"] != "ping"]
    assert told[0] == "message_start" and told[-1] == "message_stop"


async def test_a_key_may_come_as_x_api_key(tmp_path: Path) -> None:
    path, keys = make_tenants(tmp_path, {"one": Limits()})
    async with running_edge(tmp_path, tenants_file=path) as edge:
        for headers, status in (
            ({"x_api_key": keys["one"]}, 200),
            ({"authorization": f"Bearer {keys['one']}"}, 200),
            ({"x_api_key": "wrong"}, 401),
            ({}, 401),
            ({"x_api_key": keys["one"], "authorization": "Bearer wrong"}, 401),
        ):
            answer = await edge.post("/v1/messages", ASK, **headers)
            assert answer.status_code == status
            assert status == 200 or answer.json()["error"]["type"] == "authentication_error"
        assert (await edge.get("/v1/models", x_api_key=keys["one"])).status_code == 200
