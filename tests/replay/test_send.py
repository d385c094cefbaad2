"""The open-loop client against a real HTTP server on port 0."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from prfaas.replay import client as client_module
from prfaas.replay import stream as stream_module
from prfaas.replay.arrival import Arrival
from prfaas.replay.client import Target
from prfaas.replay.prompts import TokenPrompts
from prfaas.replay.record import Record
from prfaas.replay.send import replay

Handler = Callable[[dict[str, object]], Awaitable[Response]]


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[Target]:
    async def endpoint(request: Request) -> Response:
        return await handler(msgspec.json.decode(await request.body()))

    app = Starlette(routes=[Route("/v1/completions", endpoint, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    # Listens already: whoever connects before uvicorn is up waits in the backlog.
    listening = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield Target(url=f"http://127.0.0.1:{listening.getsockname()[1]}", model="m", timeout_s=60.0)
    finally:
        server.should_exit = True
        await serving
        listening.close()


def stream(*messages: str, **headers: str) -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        for message in messages:
            yield f"data: {message}\n\n".encode()

    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return StreamingResponse(body(), media_type="text/event-stream", headers=named)


TEXT = '{"choices":[{"text":"x"}]}'
END = '{"choices":[{"text":"","finish_reason":"length"}]}'
USAGE = '{"choices":[],"usage":{"completion_tokens":3}}'


async def answer(body: dict[str, object]) -> Response:
    return stream(TEXT, TEXT, TEXT, END, USAGE, "[DONE]", x_prfaas_outcome="offloaded", x_prfaas_prefill_site="far")


async def test_records_an_answer() -> None:
    seen: list[dict[str, object]] = []

    async def handler(body: dict[str, object]) -> Response:
        seen.append(body)
        return await answer(body)

    async with served(handler) as target:
        records = await replay(target, [Arrival(0.0, 5, 3), Arrival(0.01, 2, 3)], TokenPrompts(1))
    assert [(r.error, r.tokens, r.text, r.outcome, r.prefill_site, len(r.gaps_s)) for r in records] == [
        ("", 3, "xxx", "offloaded", "far", 2)
    ] * 2
    for record in records:
        assert record.sent_s is not None and record.first_s is not None and record.last_s is not None
        assert record.arrival.arrival_s <= record.sent_s <= record.first_s <= record.last_s
    prompts = [body["prompt"] for body in seen]
    assert sorted(len(prompt) for prompt in prompts if isinstance(prompt, list)) == [2, 5]
    assert all(body["max_tokens"] == 3 and body["stream"] is True for body in seen)


async def test_time_counts_from_when_a_request_was_due_not_from_when_it_left() -> None:
    """The client is held up before the second request: its delay is part of that request's time."""

    def slow_prompts(index: int, arrival: Arrival) -> str:
        if index == 1:
            time.sleep(0.3)
        return "p"

    async with served(answer) as target:
        first, second = await replay(target, [Arrival(0.0, 1, 3), Arrival(0.0, 1, 3)], slow_prompts)
    assert second.lag_s >= 0.3
    assert second.ttft_s is not None and second.ttft_s >= 0.3
    assert first.lag_s < second.lag_s


async def test_a_slow_answer_does_not_hold_up_later_requests() -> None:
    """The first answer ends only after the second request has been asked: a closed loop would wait for ever."""
    second_asked = asyncio.Event()

    async def handler(body: dict[str, object]) -> Response:
        if body["max_tokens"] == 1:
            await second_asked.wait()
        else:
            second_asked.set()
        return await answer(body)

    async with served(handler) as target:
        records = await replay(target, [Arrival(0.0, 1, 1), Arrival(0.01, 1, 2)], TokenPrompts(2))
    assert [record.error for record in records] == ["", ""]


async def refuse(body: dict[str, object]) -> Response:
    return JSONResponse({"error": {"message": "full", "code": "overloaded"}}, status_code=429)


async def refuse_without_a_code(body: dict[str, object]) -> Response:
    return JSONResponse({"error": {"message": "no"}}, status_code=503)


async def fail_midway(body: dict[str, object]) -> Response:
    return stream(TEXT, '{"error":{"message":"lost","code":"engine"}}')


async def end_early(body: dict[str, object]) -> Response:
    return stream(TEXT)


async def talk_nonsense(body: dict[str, object]) -> Response:
    return stream("{")


@pytest.mark.parametrize(
    ("handler", "error"),
    [
        (refuse, "overloaded"),
        (refuse_without_a_code, "http_503"),
        (fail_midway, "engine"),
        (end_early, "cut_off"),
        (talk_nonsense, "protocol"),
    ],
)
async def test_errors_are_told_apart(handler: Handler, error: str) -> None:
    async with served(handler) as target:
        (record,) = await replay(target, [Arrival(0.0, 1, 3)], TokenPrompts(3))
    assert record.error == error


async def test_an_answer_that_does_not_come_is_a_timeout() -> None:
    over = asyncio.Event()

    async def late(body: dict[str, object]) -> Response:
        await over.wait()
        return await answer(body)

    async with served(late) as target:
        (record,) = await replay(msgspec.structs.replace(target, timeout_s=0.5), [Arrival(0.0, 1, 3)], TokenPrompts(3))
        over.set()
    assert record.error == "timeout"


async def test_nobody_listens() -> None:
    async with served(answer) as target:
        pass
    (record,) = await replay(target, [Arrival(0.0, 1, 3)], TokenPrompts(4))
    assert record.error == "connection" and record.message


def test_prompts_differ_and_repeat() -> None:
    arrival = Arrival(0.0, 50, 1)
    one, other = TokenPrompts(1), TokenPrompts(2)
    assert one(0, arrival) == one(0, arrival) != one(1, arrival) != other(1, arrival)


def spoken(*events: str, status: int = 200) -> Handler:
    async def handler(body: dict[str, object]) -> Response:
        async def sent() -> AsyncIterator[bytes]:
            for event in events:
                yield event.encode()

        return StreamingResponse(sent(), status_code=status, media_type="text/event-stream")

    return handler


async def asked(handler: Handler) -> Record:
    async with served(handler) as target:
        (record,) = await replay(target, [Arrival(0.0, 5, 3)], TokenPrompts(1))
    return record


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        ("{}", (3, 0, 0)),
        ('{"completion_tokens":null,"prompt_tokens":null}', (3, 0, 0)),
        ('{"completion_tokens":9,"prompt_tokens":5,"prompt_tokens_details":{"cached_tokens":4}}', (9, 5, 4)),
        ('{"completion_tokens":9,"prompt_tokens":5,"prompt_tokens_details":{"cached_tokens":400}}', (9, 5, 5)),
    ],
)
async def test_what_a_server_does_not_count_is_not_zero(usage: str, counted: tuple[int, int, int]) -> None:
    usage_event = f'data: {{"choices":[],"usage":{usage}}}\n\n'
    record = await asked(spoken(*[f"data: {TEXT}\n\n"] * 3, f"data: {END}\n\n", usage_event, "data: [DONE]\n\n"))
    assert (record.error, record.tokens, record.prompt_tokens, record.cached_tokens) == ("", *counted)


@pytest.mark.parametrize(
    ("handler", "error", "says"),
    [
        (spoken('{"choices":[{"text":"x","finish_reason":"stop"}]}'), "protocol", "no stream of events: {"),
        (spoken("data: {}\n\n", ": nothing\n\n"), "cut_off", "without a finish reason"),
        (spoken('data: {"choices":[],"usage":{"completion_tokens":-1}}\n\n'), "protocol", ">= 0"),
        (spoken("data: ", *["x" * 1000] * 9), "protocol", "more than"),
        (spoken("x" * 5000, status=500), "http_500", "xxx"),
        (spoken('{"error":{"code":"\\u001b[31m[/red]", "message":"a\\nb"}}', status=500), " [31m[/red]", "a b"),
        (spoken('{"error":{"code":"' + "c" * 900 + '"}}', status=500), "c" * 61 + "...", ""),
    ],
)
async def test_what_is_no_answer_is_said_in_bounds(
    handler: Handler, error: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "MAX_EVENT_BYTES", 4000)
    monkeypatch.setattr(client_module, "MAX_ERROR_BYTES", 4000)
    record = await asked(handler)
    assert record.error == error and says in record.message and len(record.message) <= 500 and record.message.isprintable()
