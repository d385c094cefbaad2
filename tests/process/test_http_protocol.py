"""Connections as clients use them: half-closed, left, idle, and sending what is no HTTP."""

import asyncio
import contextlib
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

DEADLINE_S = 60.0


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

    async def echo(self, request: Request) -> Response:
        return Response(await request.body(), headers={"offered": request.headers.get("upgrade", "")})

    async def at_once(self, _request: Request) -> Response:
        return PlainTextResponse("at once")


@asynccontextmanager
async def serving(answers: Answers, **settings: Any) -> AsyncIterator[HttpServer]:
    routes = [
        Route("/late", answers.late, methods=["POST"]),
        Route("/stream", answers.stream),
        Route("/echo", answers.echo, methods=["POST"]),
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
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"
STREAM = b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize("probed", [False, True])
async def test_a_client_that_closes_its_sending_side_gets_its_answer(probed: bool) -> None:
    answers = Answers()
    async with serving(answers) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(LATE)
        writer.write_eof()
        await answers.asked.wait()
        if probed:
            assert await reader.readuntil(b"\r\n\r\n") == INTERIM
        answers.go_on.set()
        answer = await reader.read()
        while answer.startswith(INTERIM):  # on a busy machine the client is probed, whether the test waits for it or not
            answer = answer.removeprefix(INTERIM)
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


async def answered_after_a_stall(server: HttpServer, idle_timeout_s: float) -> bool:
    """Sends a second request on an idle connection, in a loop that turns again only when the timeout is over."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    await reader.readuntil(b"at once")
    sock = writer.get_extra_info("socket")

    def send_and_stall() -> None:
        with contextlib.suppress(ConnectionError):
            os.write(sock.fileno(), b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        time.sleep(1.5 * idle_timeout_s)

    asyncio.get_running_loop().call_soon(send_and_stall)
    try:
        await reader.readuntil(b"at once")
    except (asyncio.IncompleteReadError, ConnectionError):
        return False
    finally:
        writer.close()
    return True


async def test_a_request_that_waits_for_a_busy_loop_is_answered_though_the_timeout_is_over() -> None:
    async with serving(Answers(), idle_timeout_s=0.2) as server:
        # A machine that stalls by itself between answer and request may spoil a try: the connection was idle in time.
        while not await answered_after_a_stall(server, idle_timeout_s=0.2):
            continue


async def test_what_is_no_http_is_told_so_in_the_shape_of_all_errors() -> None:
    async with serving(Answers()) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"nonsense\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ") and b"\r\nx-request-id: " in head
        assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}
        writer.close()


ECHO = b"POST /echo HTTP/1.1\r\nhost: x\r\n"
TOO_LARGE = {
    "a header": ECHO + b"x: " + b"a" * 100_000 + b"\r\n\r\n",
    "a header without an end": ECHO + b"x: " + b"a" * 1_000_000,
    "many headers": ECHO + b"".join(b"x%d: a\r\n" % index for index in range(20_000)) + b"\r\n",
    "a path": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    "a chunk's extension": ECHO + b"transfer-encoding: chunked\r\n\r\n2;" + b"a" * 1_000_000,
    "a trailer": ECHO + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx: " + b"a" * 1_000_000,
    "chunks of one byte": ECHO + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 100_000,
}


@pytest.mark.parametrize("what", TOO_LARGE)
@pytest.mark.parametrize("piece_bytes", [1_000, 1_000_000])
async def test_what_comes_before_a_body_is_bounded(what: str, piece_bytes: int) -> None:
    async with serving(Answers()) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for start in range(0, len(TOO_LARGE[what]), piece_bytes):
            writer.write(TOO_LARGE[what][start : start + piece_bytes])
            await writer.drain()
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 431 ") and b"\r\nx-request-id: " in answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "head_too_large"
        writer.close()


async def test_a_body_in_small_chunks_is_read() -> None:
    async with serving(Answers()) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in b"0123456789" * 500)
        writer.write(ECHO + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
        assert (await reader.read()).endswith(b"\r\n\r\n" + b"0123456789" * 500)
        writer.close()


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"TLS/1.2"])
@pytest.mark.parametrize("piece_bytes", [7, 10_000])
async def test_an_offer_of_another_protocol_costs_a_request_nothing(protocol: bytes, piece_bytes: int) -> None:
    async with serving(Answers()) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        offer = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: " + protocol + b"\r\nhttp2-settings: AAEAAEAA\r\n"
        asked = ECHO + offer + b"content-length: 5\r\n\r\nhello"
        asked += ECHO + offer + b"transfer-encoding: chunked\r\n\r\n6\r\n again\r\n0\r\n\r\n"
        asked += ECHO + b"connection: close\r\ncontent-length: 4\r\n\r\nlast"
        for start in range(0, len(asked), piece_bytes):
            writer.write(asked[start : start + piece_bytes])
            await writer.drain()
        answers = await reader.read()
        assert answers.count(b"HTTP/1.1 200 ") == 3 and answers.count(b"offered: \r\n") == 3
        assert b"\r\n\r\nhello" in answers and b"\r\n\r\n again" in answers and answers.endswith(b"\r\n\r\nlast")
        writer.close()


@pytest.mark.parametrize("sent", [b"", b"POST /ec", ECHO, b"GET / HTTP/1.1\r\nhost: x\r\n\r\nGET"])
async def test_a_connection_without_a_whole_head_is_closed_in_time(sent: bytes) -> None:
    async with serving(Answers(), idle_timeout_s=0.2, head_timeout_s=0.2) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(sent)
        assert (await reader.read()).count(b"at once") == sent.count(b"\r\n\r\n")
        writer.close()


async def test_an_answer_may_take_longer_than_an_idle_connection_with_half_a_request_behind_it() -> None:
    answers = Answers()
    async with serving(answers, idle_timeout_s=0.1, head_timeout_s=0.1) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(LATE + b"GET / HT")
        await answers.asked.wait()
        await asyncio.sleep(0.5)  # several times the idle time
        answers.go_on.set()
        assert b"\r\n\r\nlate" in await reader.read()
        writer.close()
