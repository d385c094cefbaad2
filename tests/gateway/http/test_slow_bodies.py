"""Bodies that arrive slowly, by the hundred: they hold no place of others, and no memory without bound."""

import asyncio
import contextlib
from pathlib import Path

from prfaas.secrets.tenants_file import Limits
from tests.gateway.conftest import Edge, make_tenants, running_edge, until
from tests.gateway.scripted_site import DEADLINE_S

HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s\r\ncontent-length: %d\r\n\r\n"
ASK = {"model": "tiny", "prompt": "hello"}


async def begin(edge: Edge, key: bytes, length: int, sent: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(HEAD % (key, length) + sent)
    return reader, writer


async def test_hundreds_of_slow_bodies_turn_no_other_client_away(tmp_path: Path) -> None:
    path, keys = make_tenants(tmp_path, {"slow": Limits(), "quick": Limits()})
    async with running_edge(tmp_path, max_requests=8, tenants_file=path) as edge:
        slow = [await begin(edge, keys["slow"].encode(), 100, b"{") for _ in range(200)]
        await until(lambda: edge.metric("prfaas_request_failures_total", code="request_timeout") == 192)
        for _ in range(20):
            answer = await edge.post("/v1/completions", ASK, authorization=f"Bearer {keys['quick']}")
            assert answer.status_code == 200
        assert edge.service.requests_running == 0
        answer_of_the_first = await slow[0][0].readuntil(b"}}")
        assert answer_of_the_first.startswith(b"HTTP/1.1 408 ") and b"needed its room" in answer_of_the_first
        for _, writer in slow:
            writer.close()
        await until(lambda: edge.metric("prfaas_gateway_open_requests") == 0)


async def test_without_keys_the_slowest_bodies_give_way(tmp_path: Path) -> None:
    async with running_edge(tmp_path, max_requests=8) as edge:
        slow = [await begin(edge, b"", 100, b"{") for _ in range(8)]
        await until(lambda: edge.metric("prfaas_gateway_open_requests") == 8)
        for _ in range(20):
            assert (await edge.post("/v1/completions", ASK)).status_code == 200
        for _, writer in slow:
            writer.close()


async def test_large_slow_bodies_hold_bounded_memory(tmp_path: Path) -> None:
    path, keys = make_tenants(tmp_path, {"slow": Limits(), "quick": Limits()})
    async with running_edge(tmp_path, max_bodies_mib=4, max_body_bytes=2**20, tenants_file=path) as edge:
        part = b"[" * (2**20 - 1)
        slow = [await begin(edge, keys["slow"].encode(), 2**20, part) for _ in range(12)]
        await until(lambda: edge.metric("prfaas_request_failures_total", code="request_timeout") == 8)
        assert (await edge.post("/v1/completions", ASK, authorization=f"Bearer {keys['quick']}")).status_code == 200
        for _, writer in slow:
            writer.close()
        await until(lambda: edge.metric("prfaas_gateway_open_requests") == 0)


async def test_a_burst_from_one_client_is_taken_whole(tmp_path: Path) -> None:
    async with running_edge(tmp_path, max_requests=100) as edge:
        answers = await asyncio.gather(*(edge.post("/v1/completions", ASK) for _ in range(100)))
        assert {answer.status_code for answer in answers} == {200}


async def test_a_drain_does_not_wait_for_slow_bodies(edge: Edge) -> None:
    _, writer = await begin(edge, b"", 100, b"{")
    await until(lambda: edge.metric("prfaas_gateway_open_requests") == 1)
    async with asyncio.timeout(DEADLINE_S):
        await edge.service.drain(10 * DEADLINE_S)
    with contextlib.suppress(ConnectionError):
        writer.close()
