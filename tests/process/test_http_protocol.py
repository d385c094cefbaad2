"""Connections as clients use them: half-closed, left, idle, and sending what is no HTTP."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from prfaas.process.http import HttpServer

DEADLINE_S = 10.0


class Answers:
    """An app whose answers wait for the test."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.asked = asyncio.Event()
        self.left = asyncio.Event()

    async def late(self, request: Request) -> Response:
        self.asked.set()
        await request.body()
        waiting = asyncio.ensure_future(self.go_on.wait())
        leaving = asyncio.ensure_future(request.receive())
        await asyncio.wait([waiting, leaving], return_when=asyncio.FIRST_COMPLETED)
        if leaving.done() and leaving.result()["type"] == "http.disconnect":
            self.left.set()
        waiting.cancel()
        leaving.cancel()
        return PlainTextResponse("late")

    async def stream(self, _request: Request) -> Response:
        async def events() -> AsyncIterator[bytes]:
            try:
                yield b"data: 1\n\n"
                self.asked.set()
                await self.go_on.wait()
                yield b"data: 2\n\n"
            finally:
                if not self.go_on.is_set():
                    self.left.set()

        return StreamingResponse(events(), media_type="text/event-stream")

    async def at_once(self, _request: Request) -> Response:
        return PlainTextResponse("at once")


@asynccontextmanager
async def serving(answers: Answers, **settings: Any) -> AsyncIterator[HttpServer]:
    routes = [
        Route("/late", answers.late, methods=["POST"]),
        Route("/stream", answers.stream),
        Route("/", answers.at_once),
    ]
    server = HttpServer(Starlette(routes=routes), "127.0.0.1", 0, **settings)
    task = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(60):
            yield server
    finally:
        server.stop()
        async with asyncio.timeout(DEADLINE_S):
            await task


LATE = b"POST /late HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
STREAM = b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize("probed", [False, True])
async def test_a_client_that_closes_its_sending_side_gets_its_answer(probed: bool) -> None:
    answers = Answers()
    async with serving(answers) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(LATE)
        writer.write_eof()
        await answers.asked.wait()
        interim = await reader.readuntil(b"\r\n\r\n") if probed else b""
        answers.go_on.set()
        answer = await reader.read()
        assert interim == (b"HTTP/1.1 100 Continue\r\n\r\n" if probed else b"")
        assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\nlate")
        assert not answers.left.is_set()
        writer.close()


async def test_a_half_closed_client_gets_its_whole_stream() -> None:
    answers = Answers()
    async with serving(answers) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(STREAM)
        await reader.readuntil(b"data: 1\n\n")
        writer.write_eof()
        await reader.readuntil(b":\n\n")  # a comment, after some time without news
        answers.go_on.set()
        assert (await reader.read()).endswith(b"data: 2\n\n\r\n0\r\n\r\n")
        writer.close()


async def test_pipelined_requests_before_a_half_close_are_all_answered() -> None:
    async with serving(Answers()) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 3)
        writer.write_eof()
        assert (await reader.read()).count(b"at once") == 3
        writer.close()


@pytest.mark.parametrize("request_", [LATE, STREAM])
async def test_a_client_that_is_gone_is_noticed_all_the_same(request_: bytes) -> None:
    answers = Answers()
    async with serving(answers) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request_)
        await answers.asked.wait()
        writer.close()
        await answers.left.wait()


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_gone_at_once() -> None:
    answers = Answers()
    async with serving(answers) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(LATE[:-1])
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()


async def test_an_idle_connection_is_closed_after_the_timeout_and_says_so_before() -> None:
    async with serving(Answers(), idle_timeout_s=1.5) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"\r\nkeep-alive: timeout=1\r\n" in head
        assert await reader.read() == b"at once"
        writer.close()


async def test_a_request_that_waits_for_a_busy_loop_is_answered_though_the_timeout_is_over() -> None:
    async with serving(Answers(), idle_timeout_s=0.2) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"at once")
        loop = asyncio.get_running_loop()
        sock = writer.get_extra_info("socket")

        def send_and_stall() -> None:
            # The request arrives while nothing turns, and the timeout passes before anything is read.
            os.write(sock.fileno(), b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            time.sleep(0.3)

        loop.call_soon(send_and_stall)
        await reader.readuntil(b"at once")
        writer.close()


async def test_what_is_no_http_is_told_so_in_the_shape_of_all_errors() -> None:
    async with serving(Answers()) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"nonsense\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ") and b"\r\nx-request-id: " in head
        assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
        writer.close()
