"""Clients that leave, and answers that do not come: the decode worker is told, within a deadline."""

import asyncio
import json
import socket
from typing import Any

import openai
import pytest

from prfaas.contracts.to_decode import Generate
from tests.gateway.conftest import GROWING_S, Edge, running_edge, until
from tests.gateway.scripted_site import DEADLINE_S, WORKER, Emitter, say_hello

MESSAGES: Any = [{"role": "user", "content": "hello"}]


def never_ends(first_tokens: int) -> Any:
    async def script(_generate: Generate, emit: Emitter) -> None:
        if first_tokens:
            await emit.started()
        for _ in range(first_tokens):
            await emit.tokens("a")
        await asyncio.Event().wait()

    return script


def left(edge: Edge, endpoint: str) -> float:
    """Requests counted as left by their client."""
    return edge.metric("prfaas_gateway_responses_total", endpoint=endpoint, status="499")


async def test_closing_a_stream_frees_the_slot(edge: Edge) -> None:
    edge.site.script = never_ends(first_tokens=2)
    async with edge.openai() as client:
        stream = await client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
        async for chunk in stream:
            if chunk.choices[0].delta.content == "a":
                break
        await stream.close()
        cancel = await edge.site.cancellation()
    assert cancel.request_id == edge.site.generated[0].request_id
    assert cancel.reason == "the client left"
    await until(lambda: left(edge, "chat.completions") == 1)


@pytest.mark.parametrize("stream", [False, True])
async def test_leaving_before_the_first_token_frees_the_slot(edge: Edge, stream: bool) -> None:
    edge.site.script = never_ends(first_tokens=0)
    async with edge.openai() as client:
        asking = asyncio.create_task(client.completions.create(model="tiny", prompt="x", stream=stream))
        await until(lambda: edge.site.running)
        asking.cancel()
        assert (await edge.site.cancellation()).reason == "the client left"
        with pytest.raises(asyncio.CancelledError):
            await asking


async def test_leaving_an_answer_that_is_not_streamed_frees_the_slot(edge: Edge) -> None:
    edge.site.script = never_ends(first_tokens=3)
    async with edge.openai(timeout=1) as client:
        with pytest.raises(openai.APITimeoutError):
            await client.completions.create(model="tiny", prompt="x")
        assert (await edge.site.cancellation()).reason == "the client left"


async def test_leaving_while_the_worker_has_not_replied_cancels_all_the_same(edge: Edge) -> None:
    edge.site.answers_generate = False
    async with edge.openai() as client:
        asking = asyncio.create_task(client.completions.create(model="tiny", prompt="x"))
        await until(lambda: edge.site.generated)
        asking.cancel()
        cancel = await edge.site.cancellation()
        assert (cancel.request_id, cancel.reason) == (edge.site.generated[0].request_id, "the client left")
        with pytest.raises(asyncio.CancelledError):
            await asking


async def test_leaving_before_the_placement_asks_nobody_to_cancel(edge: Edge) -> None:
    edge.site.answers_place = False
    async with edge.openai() as client:
        asking = asyncio.create_task(client.completions.create(model="tiny", prompt="x"))
        await until(lambda: edge.site.placed)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await until(lambda: left(edge, "completions") == 1)
    assert edge.site.generated == []
    assert edge.site.cancelled.empty()


async def test_a_half_sent_request_that_is_dropped_costs_nothing(edge: Edge) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(b'POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"model"')
    await writer.drain()
    await until(lambda: edge.metric("prfaas_gateway_open_requests") == 1)
    assert edge.service.requests_running == 0
    writer.close()
    await until(lambda: edge.metric("prfaas_gateway_open_requests") == 0)
    assert edge.site.placed == []
    del reader


async def test_a_finished_answer_is_not_cancelled(edge: Edge) -> None:
    async with edge.openai() as client:
        for stream in (False, True):
            answer = await client.completions.create(model="tiny", prompt="x", stream=stream)
            if isinstance(answer, openai.AsyncStream):
                async for _ in answer:
                    pass
    await edge.post("/v1/completions", {"model": "tiny", "prompt": "x"})
    await until(lambda: edge.service.requests_running == 0)
    assert edge.site.cancelled.empty()


async def test_no_start_within_the_deadline_is_503_and_a_cancel(edge: Edge) -> None:
    edge.site.script = never_ends(first_tokens=0)
    for deadline_s in GROWING_S:
        answer = await edge.post("/v1/completions", {"model": "tiny", "prompt": "x"}, x_prfaas_ttft_deadline_s=deadline_s)
        if edge.site.generated:
            break
    assert (answer.status_code, answer.json()["error"]["code"], answer.headers["retry-after"]) == (503, "deadline", "1")
    assert answer.json()["error"]["message"] == f"No first token within {deadline_s} s."
    assert "No first token" in (await edge.site.cancellation()).reason


async def test_no_first_token_after_the_start_breaks_the_stream_off(edge: Edge) -> None:
    async def script(_generate: Generate, emit: Emitter) -> None:
        await emit.started()
        await asyncio.Event().wait()

    edge.site.script = script
    body = {"model": "tiny", "prompt": "x", "stream": True}
    for deadline_s in GROWING_S:
        answer = await edge.post("/v1/completions", body, x_prfaas_ttft_deadline_s=deadline_s)
        if answer.status_code == 200:
            break
    assert json.loads(answer.text.split("\n\n")[-2].removeprefix("data: "))["error"]["code"] == "deadline"
    assert "[DONE]" not in answer.text
    await edge.site.cancellation()


async def test_silence_between_tokens_breaks_the_answer_off(tmp_path: Any) -> None:
    async with running_edge(tmp_path, idle_deadline_s=0.5) as edge:
        edge.site.script = never_ends(first_tokens=2)
        for stream, status in ((True, 200), (False, 503)):
            answer = await edge.post("/v1/completions", {"model": "tiny", "prompt": "x", "stream": stream})
            assert answer.status_code == status
            assert "idle_deadline" in answer.text
            assert "[DONE]" not in answer.text
            await edge.site.cancellation()


async def test_a_silent_scheduler_or_worker_is_503(tmp_path: Any) -> None:
    async with running_edge(tmp_path, control_deadline_s=0.3) as edge:
        edge.site.answers_generate = False
        answer = await edge.post("/v1/completions", {"model": "tiny", "prompt": "x"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["error"]["message"] == "The decode worker of site home gives no answer."
        # It may have heard the request all the same.
        await edge.site.cancellation()
        edge.site.answers_place = False
        answer = await edge.post("/v1/completions", {"model": "tiny", "prompt": "x"}, x_prfaas_ttft_deadline_s="1.5")
        assert answer.json()["error"]["message"] == "The scheduler of site home gives no answer."


async def test_a_client_that_does_not_read_is_dropped(tmp_path: Any) -> None:
    async def script(_generate: Generate, emit: Emitter) -> None:
        await emit.started()
        for _ in range(400):  # more than the sockets between us buffer
            await emit.tokens("a" * 100_000)
            await asyncio.sleep(0.001)
        await asyncio.Event().wait()

    async with running_edge(tmp_path, write_deadline_s=0.3) as edge:
        edge.site.script = script
        with socket.create_connection(("127.0.0.1", edge.port), timeout=DEADLINE_S) as client:
            body = json.dumps({"model": "tiny", "prompt": "x", "stream": True}).encode()
            client.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            await edge.site.cancellation()
            await until(lambda: edge.service.requests_running == 0)


async def test_a_decode_worker_that_comes_back_in_time_keeps_its_requests(tmp_path: Any) -> None:
    go_on = asyncio.Event()

    async def script(generate: Generate, emit: Emitter) -> None:
        await go_on.wait()
        await say_hello(generate, emit)

    async with running_edge(tmp_path, worker_grace_s=1.0) as edge:
        edge.site.script = script
        asking = asyncio.create_task(edge.post("/v1/completions", {"model": "tiny", "prompt": "x"}))
        await until(lambda: edge.site.running)
        for gone in (False, True, False):
            await edge.site.announce(WORKER, gone=gone)
        await asyncio.sleep(1.2)  # that nothing happens shows only by waiting
        go_on.set()
        assert (await asking).status_code == 200


async def test_losing_the_bus_in_the_middle_of_an_answer_is_an_error(tmp_path: Any) -> None:
    async with running_edge(tmp_path, idle_deadline_s=0.5) as edge:
        edge.site.script = never_ends(first_tokens=1)
        async with edge.openai() as client:
            stream = await client.completions.create(model="tiny", prompt="x", stream=True)
            with pytest.raises(openai.APIError, match="No token came"):
                async for _ in stream:
                    if edge.nats.running:
                        edge.nats.kill()
        await until(lambda: edge.service.ready() is not None)
        assert (await edge.get("/health")).status_code == 200
        assert (await edge.get("/ready")).status_code == 503
        await edge.nats.restart()
        await until(lambda: edge.service.ready() is None)
        edge.site.script = never_ends(first_tokens=0)
