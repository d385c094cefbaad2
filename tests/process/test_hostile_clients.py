"""Clients that send heads without end, nothing, or too slowly, and more of them than there is room for."""

import asyncio
import contextlib
import json
import socket
from typing import Any

import pytest
from structlog.testing import capture_logs

from prfaas.process.connection_places import connection_limit
from prfaas.process.http import HttpServer
from prfaas.process.http_protocol import MAX_HEAD_BYTES, MAX_HEADERS, REFUSED_POLITELY, HttpProtocol
from tests.process.test_http_protocol import LATE, Answers, serving
from tests.process.test_runner import DEADLINE_S, toy

START = b"GET / HTTP/1.1\r\nhost: x\r\n"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(server: HttpServer, first: bytes = b"") -> Connection:
    """Connects and sends `first` before the server's loop turns: no deadline passes in between, however slow the machine."""
    client = socket.create_connection(("127.0.0.1", server.port))
    client.sendall(first)
    return await asyncio.open_connection(sock=client)


async def answer_to(server: HttpServer, *parts: bytes) -> tuple[int, dict[str, Any]]:
    """Sends parts until the server has closed. Returns the status and the error of the answer."""
    reader, writer = await connect(server)
    with contextlib.suppress(ConnectionError):
        for part in parts:
            writer.write(part)
            await writer.drain()
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), json.loads(body)["error"]


async def is_served(server: HttpServer) -> bool:
    reader, writer = await connect(server)
    writer.write(START + b"connection: close\r\n\r\n")
    served = (await reader.read()).endswith(b"at once")
    writer.close()
    return served


HUGE = 8 * MAX_HEAD_BYTES


@pytest.mark.parametrize("parts", [
    (START, b"x: " + b"a" * HUGE),
    (START, *[b"x: " + b"a" * 1000 + b"\r\n"] * 500),
    (START, b"x: y\r\n" * (MAX_HEADERS + 1)),
    (START + b"x: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n",),
    (b"GET /" + b"a" * HUGE,),
    (b"\r\n" * HUGE,),
    (START, b"a" * HUGE),
    (b"POST /late HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n" + b"x: y\r\n" * (MAX_HEADERS + 1) + b"\r\n",),
], ids=["value", "many bytes", "many headers", "one header", "path", "empty lines", "name", "with a body"])  # fmt: skip
async def test_a_head_without_end_is_cut_with_a_sentence(parts: tuple[bytes, ...]) -> None:
    async with serving(Answers()) as server:
        status, error = await answer_to(server, *parts)
        assert (status, error["code"]) == (431, "head_too_large")
        assert "65536 bytes or 256 headers" in error["message"]
        assert await is_served(server)


async def test_a_trailer_without_end_is_cut() -> None:
    async with serving(Answers()) as server:
        reader, writer = await connect(server)
        writer.write(b"POST /late HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                writer.write(b"a" * MAX_HEAD_BYTES)
                await writer.drain()
        with contextlib.suppress(ConnectionError):
            assert (await reader.read()).startswith(b"HTTP/1.1 431 ")
        writer.close()
        assert await is_served(server)


async def test_an_error_is_not_written_into_another_requests_answer() -> None:
    answers = Answers()
    async with serving(answers) as server:
        reader, writer = await connect(server)
        writer.write(b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"data: 1\n\n")
        writer.write(b"nonsense\r\n\r\n")
        assert b"400" not in await reader.read()
        await answers.left.wait()
        writer.close()


async def test_a_head_at_the_bounds_is_served() -> None:
    async with serving(Answers()) as server:
        reader, writer = await connect(server)
        for _ in range(3):
            writer.write(START + b"x: y\r\n" * (MAX_HEADERS - 1) + b"\r\n")
            writer.write(START + b"x: " + b"a" * (MAX_HEAD_BYTES - 100) + b"\r\n\r\n")
        writer.write(START + b"connection: close\r\n\r\n")
        assert (await reader.read()).count(b"at once") == 7
        writer.close()


async def test_a_body_is_not_taken_for_a_head() -> None:
    answers = Answers()
    answers.go_on.set()
    async with serving(answers) as server:
        reader, writer = await connect(server)
        body = b"a" * (4 * MAX_HEAD_BYTES)
        writer.write(b"POST /late HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        assert (await reader.read()).endswith(b"late")
        writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET / HT", START, b"\r\n", START + b"\r\n" + START])
async def test_hundreds_of_connections_that_send_nothing_or_half_a_head_are_closed(sent: bytes) -> None:
    async with serving(Answers(), head_timeout_s=0.5, idle_timeout_s=1.0) as server:
        connections = [await connect(server, sent) for _ in range(200)]
        answers = await asyncio.gather(*(reader.read() for reader, _ in connections))
        if not sent:
            assert set(answers) == {b""}
        elif b"\r\n\r\n" not in sent:
            assert all(answer.startswith(b"HTTP/1.1 408 ") for answer in answers)
        for _, writer in connections:
            writer.close()
        assert await is_served(server)


async def test_a_client_that_drips_its_head_is_closed_too() -> None:
    async with serving(Answers(), head_timeout_s=0.5) as server:
        reader, writer = await connect(server, START)
        reading = asyncio.create_task(reader.read())
        with contextlib.suppress(ConnectionError):
            while not reading.done():
                writer.write(b"x: y\r\n")
                await asyncio.sleep(0.01)
        assert (await reading).startswith(b"HTTP/1.1 408 ")
        writer.close()


async def test_the_rest_of_a_refused_body_is_not_waited_for_without_end() -> None:
    async with serving(Answers(), head_timeout_s=0.5) as server:
        reader, writer = await connect(server)
        reading = asyncio.create_task(reader.read())
        writer.write(b"POST /nothing HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while not reading.done():
                writer.write(b"a")
                await asyncio.sleep(0.01)
        with contextlib.suppress(ConnectionError):
            assert (await reading).startswith(b"HTTP/1.1 404 ")
        writer.close()


async def test_an_answer_that_takes_longer_than_a_head_may_is_not_cut() -> None:
    answers = Answers()
    async with serving(answers, head_timeout_s=0.2) as server:
        reader, writer = await connect(server)
        writer.write(LATE + b"GET / HT")
        await answers.asked.wait()
        await asyncio.sleep(0.6)  # three times the bound
        answers.go_on.set()
        await reader.readuntil(b"late")
        writer.close()


async def test_more_connections_than_there_is_room_for_are_refused_and_those_before_are_served() -> None:
    HttpProtocol._full_logged_at = -1e9
    answers = Answers()
    async with serving(answers, max_connections=100) as server:
        with capture_logs() as logs:
            early = [await connect(server) for _ in range(100)]
            for _, writer in early:
                writer.write(LATE)
            async with asyncio.timeout(DEADLINE_S):
                while len(server._server.server_state.tasks) < 100:
                    await asyncio.sleep(0.01)
            late = [await connect(server) for _ in range(REFUSED_POLITELY)]
            for reader, writer in late:
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 503 ") and b"\r\nretry-after: 1" in head
                assert json.loads(body)["error"]["code"] == "overloaded"
                writer.close()
            answers.go_on.set()
            for reader, writer in early:
                await reader.readuntil(b"late")
                writer.close()
            async with asyncio.timeout(DEADLINE_S):
                while not await is_served(server):
                    await asyncio.sleep(0.05)
        assert "connections_refused" in {entry["event"] for entry in logs}


@pytest.mark.slow
async def test_a_process_whose_clients_use_up_its_files_goes_on_and_says_so() -> None:
    async with toy(limits="ulimit -n 160") as process:
        await process.event("ready")
        silent = [await asyncio.open_connection("127.0.0.1", process.port) for _ in range(260)]
        assert (await process.event("connections_gave_way"))["max_connections"] == 64
        for _ in range(20):
            assert (await process.get("/health")).status_code == 200
        page = (await process.get("/metrics")).text
        assert 'prfaas_http_connections_closed_total{why="gave_way"}' in page
        for _, writer in silent:
            writer.close()


def test_the_bound_on_connections_leaves_files_for_other_things(monkeypatch: pytest.MonkeyPatch) -> None:
    for files, limit in ((1024, 928), (100, 4), (50, 1), (-1, 8192), (10**6, 8192)):
        monkeypatch.setattr("resource.getrlimit", lambda _which, files=files: (files, files))
        assert connection_limit() == limit
