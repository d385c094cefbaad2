"""Requests that an attacker tries next: smuggled, pipelined, half-written, in other protocols."""

import asyncio
import contextlib
import json
import ssl
from typing import Any

import pytest

from prfaas.process.http import HttpServer
from prfaas.process.http_protocol import MAX_PIPELINED
from tests.process.test_hostile_clients import START, connect, is_served
from tests.process.test_http_protocol import DEADLINE_S, LATE, Answers, serving

ECHO = b"POST /echo HTTP/1.1\r\nhost: x\r\n"
SMUGGLED = b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n"


async def all_of(server: HttpServer, sent: bytes) -> bytes:
    """Sends bytes and the end. Returns all that comes back until the server closes."""
    reader, writer = await connect(server)
    with contextlib.suppress(ConnectionError):
        writer.write(sent)
        await writer.drain()
        writer.write_eof()
    async with asyncio.timeout(DEADLINE_S):
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = await reader.read()
    writer.close()
    return answer


def statuses(answer: bytes) -> list[int]:
    """Statuses of the responses, interim ones left out."""
    heads = [part.split(b"\r\n", 1)[0] for part in answer.split(b"HTTP/1.1 ")[1:]]
    return [int(head.split()[0]) for head in heads if not head.startswith(b"100")]


def closed(server: HttpServer) -> dict[str, float]:
    (family,) = server.collect()
    return {sample.labels["why"]: sample.value for sample in family.samples}


@pytest.mark.parametrize("sent", [
    ECHO + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    ECHO + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n" + SMUGGLED,
    ECHO + b"content-length: 0\r\ncontent-length: 34\r\n\r\n" + SMUGGLED,
    ECHO + b"content-length: 0, 34\r\n\r\n" + SMUGGLED,
    ECHO + b"content-length: +2\r\n\r\n{}" + SMUGGLED,
    ECHO + b"content-length: 0x2\r\n\r\n{}" + SMUGGLED,
    ECHO + b"content-length: -2\r\n\r\n" + SMUGGLED,
    ECHO + b"content-length: 99999999999999999999999\r\n\r\n" + SMUGGLED,
    ECHO + b"content-length : 2\r\n\r\n{}" + SMUGGLED,
    ECHO + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    ECHO + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
    ECHO + b"transfer-encoding: identity\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n" + SMUGGLED,
    ECHO + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    ECHO + b"transfer-encoding: chunked\r\n\r\nZZ\r\n\r\n" + SMUGGLED,
    ECHO + b"transfer-encoding: chunked\r\n\r\n-1\r\n\r\n" + SMUGGLED,
    ECHO + b"transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n\r\n" + SMUGGLED,
    ECHO + b"transfer-encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n" + SMUGGLED,
    ECHO + b"x: y\x00z\r\n\r\n" + SMUGGLED,
    ECHO + b"x\x00y: z\r\n\r\n" + SMUGGLED,
    ECHO + b" folded: y\r\n\r\n" + SMUGGLED,
    b"GET /\x00 HTTP/1.1\r\nhost: x\r\n\r\n" + SMUGGLED,
    b"GET / HTTP/1.1\nhost: x\n x\n\n" + SMUGGLED,
    b"GET / HTTP/9.9\r\nhost: x\r\n\r\n" + SMUGGLED,
    b"GET  HTTP/1.1\r\n\r\n" + SMUGGLED,
    b"\x00\x01\x02\x03" + SMUGGLED,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SMUGGLED,
    b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n" + SMUGGLED,
    b"GET / HTTP/1.1\r\nhost: x\r\n\rfoo: bar\r\n\r\n" + SMUGGLED,
])  # fmt: skip
async def test_what_two_servers_could_read_differently_is_refused_and_nothing_behind_it_is_heard(sent: bytes) -> None:
    answers = Answers()
    async with serving(answers) as server:
        answer = await all_of(server, sent)
        assert statuses(answer) in ([400], []), answer[:300]
        if answer:
            body: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
            assert body["error"]["message"]
            assert b"connection: close" in answer
        assert not answers.asked.is_set(), "the smuggled request was heard"
        assert sum(closed(server).values()) == 1
        assert await is_served(server)


@pytest.mark.parametrize(("sent", "status", "body"), [
    (ECHO + b"transfer-encoding: chunked\r\n\r\n2;a=b;c=\"d\"\r\nhi\r\n0;x\r\n\r\n", 200, b"hi"),
    (ECHO + b"transfer-encoding: Chunked\r\n\r\n2\r\nhi\r\n0\r\ntrailer: x\r\n\r\n", 200, b"hi"),
    (ECHO + b"expect: 100-continue\r\ncontent-length: 2\r\n\r\nhi", 200, b"hi"),
    (b"POST http://other.example/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi", 200, b"hi"),
    (b"GET //echo HTTP/1.1\r\nhost: x\r\n\r\n", 404, b""),
    (b"GET /../../etc/passwd HTTP/1.1\r\nhost: x\r\n\r\n", 404, b""),
    (b"GET /%00%2e%2e HTTP/1.1\r\nhost: x\r\n\r\n", 404, b""),
    (b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n", 404, b""),
    (b"GET /?" + b"a" * 60_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 200, b"at once"),
    (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 431, b""),
    (b"GET / HTTP/1.0\r\n\r\n", 200, b"at once"),
    (b"POST /echo HTTP/1.0\r\ncontent-length: 2\r\n\r\nhi", 200, b"hi"),
])  # fmt: skip
async def test_what_is_odd_and_allowed_is_answered(sent: bytes, status: int, body: bytes) -> None:
    async with serving(Answers()) as server:
        answer = await all_of(server, sent)
        assert statuses(answer) == [status], answer[:300]
        assert answer.endswith(body)
        assert await is_served(server)


async def test_a_body_that_waits_for_leave_gets_it_once() -> None:
    async with serving(Answers()) as server:
        reader, writer = await connect(server)
        writer.write(ECHO + b"expect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hi")
        assert (await reader.readuntil(b"hi")).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with serving(Answers()) as server:
        bodies = [b"%02d" % number for number in range(MAX_PIPELINED)]
        answer = await all_of(server, b"".join(ECHO + b"content-length: 2\r\n\r\n" + body for body in bodies))
        assert statuses(answer) == [200] * MAX_PIPELINED
        assert [part[-2:] for part in answer.split(b"HTTP/1.1 200 OK")[1:]] == bodies


async def test_thousands_of_pipelined_requests_end_their_connection_and_hold_no_memory() -> None:
    answers = Answers()
    async with serving(answers) as server:
        flooding = [await connect(server) for _ in range(20)]
        for _, writer in flooding:
            writer.write(LATE + (START + b"\r\n") * 5000)
        async with asyncio.timeout(DEADLINE_S):
            for reader, writer in flooding:
                with contextlib.suppress(ConnectionError):
                    assert b"200" not in await reader.read()
                writer.close()
        assert closed(server) == {"invalid_http": 20}
        assert await is_served(server)


async def test_hundreds_of_heads_that_come_byte_by_byte_are_cut_while_others_are_served() -> None:
    async with serving(Answers(), head_timeout_s=1.0) as server:
        dripping = [await connect(server, b"G") for _ in range(200)]
        reading = [asyncio.create_task(reader.read()) for reader, _ in dripping]
        while not all(task.done() for task in reading):
            for (_, writer), task in zip(dripping, reading, strict=True):
                if not task.done():
                    with contextlib.suppress(ConnectionError):
                        writer.write(b"E")
            assert await is_served(server)
        for task, (_, writer) in zip(reading, dripping, strict=True):
            with contextlib.suppress(ConnectionError):
                assert (await task).startswith((b"HTTP/1.1 408 ", b"HTTP/1.1 400 "))
            writer.close()


async def test_a_tls_hello_is_told_that_it_is_no_http() -> None:
    async with serving(Answers()) as server:
        context = ssl.create_default_context()
        with pytest.raises((ssl.SSLError, ConnectionError)):
            async with asyncio.timeout(DEADLINE_S):
                await asyncio.open_connection("127.0.0.1", server.port, ssl=context, server_hostname="x")
        assert closed(server) == {"invalid_http": 1}
        assert await is_served(server)


@pytest.mark.parametrize("sent", [b"", b"GET", START, ECHO + b"content-length: 5\r\n\r\nab"])
async def test_half_closed_connections_that_can_never_ask_are_closed(sent: bytes) -> None:
    async with serving(Answers()) as server:
        reader, writer = await connect(server)
        writer.write(sent)
        writer.write_eof()
        async with asyncio.timeout(DEADLINE_S):
            assert b"200" not in await reader.read()
        writer.close()


async def test_silent_connections_give_way_to_clients_that_ask() -> None:
    async with serving(Answers(), max_connections=50, head_timeout_s=60.0) as server:
        silent = [await connect(server) for _ in range(200)]
        for _, writer in silent[::2]:
            writer.write(b"GET / HT")
        for _ in range(20):
            assert await is_served(server)
        assert closed(server)["gave_way"] >= 150
        for _, writer in silent:
            writer.close()


async def test_idle_connections_that_have_asked_once_give_way_too() -> None:
    async with serving(Answers(), max_connections=50) as server:
        idle = [await connect(server) for _ in range(50)]
        for reader, writer in idle:
            writer.write(START + b"\r\n")
            await reader.readuntil(b"at once")
        assert await is_served(server)
        assert await idle[0][0].read() == b"", "the one that was idle for longest"
        for _, writer in idle:
            writer.close()
