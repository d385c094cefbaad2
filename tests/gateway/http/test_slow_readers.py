"""Clients that do not read their answers: they hold bounded memory for a bounded time, and no place of others."""

import asyncio
import json
import socket
from pathlib import Path

from prfaas.contracts.to_decode import Generate
from tests.gateway.conftest import Edge, running_edge, until
from tests.gateway.scripted_site import Emitter, say_hello

ASK = {"model": "tiny", "prompt": "hello", "stream": True, "max_tokens": 90}


async def pours(_generate: Generate, emit: Emitter) -> None:
    """Sends as much text as the bus takes, until it is cancelled."""
    await emit.started()
    while True:
        await emit.tokens("x" * 4000)
        await asyncio.sleep(0.001)


async def ask_and_read_nothing(edge: Edge) -> socket.socket:
    client = socket.socket()
    client.setblocking(False)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", edge.port))
    body = json.dumps(ASK).encode()
    await loop.sock_sendall(client, b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    return client


async def test_answers_that_are_not_read_end_and_their_decode_workers_hear_it(tmp_path: Path) -> None:
    async with running_edge(tmp_path, write_deadline_s=1.0) as edge:
        edge.site.script = pours
        clients = [await ask_and_read_nothing(edge) for _ in range(8)]
        await until(lambda: len(edge.site.generated) == 8)
        edge.site.script = say_hello
        assert (await edge.post("/v1/completions", ASK)).text.endswith("data: [DONE]\n\n")
        stalled = {(await edge.site.cancellation()).request_id for _ in range(8)}
        assert stalled == {generate.request_id for generate in edge.site.generated[:8]}
        await until(lambda: edge.service.requests_running == 0)
        failures = [edge.metric("prfaas_request_failures_total", code=code) for code in ("client_stalled", "client_too_slow")]
        assert sum(failures) == 8
        for client in clients:
            client.close()
