"""A server that leaves: what has been asked is answered, and clients go elsewhere without having lost anything."""

import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from prfaas.process.http import HttpServer
from prfaas.stack.free_port import free_port

DEADLINE_S = 60.0


class Served:
    """A server whose answers say its name, and that may be made to wait before them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()
        self.server = HttpServer(
            Starlette(routes=[Route("/", self.answer), Route("/held", self.held)]), "127.0.0.1", 0, idle_timeout_s=60
        )
        self.serving = asyncio.create_task(self.server.serve())

    async def answer(self, _request: Request) -> Response:
        return PlainTextResponse(self.name)

    async def held(self, request: Request) -> Response:
        self.asked.set()
        await self.go_on.wait()
        return await self.answer(request)

    async def up(self) -> "Served":
        async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as client:
            await client.get(f"http://127.0.0.1:{self.server.port}/")
        return self

    async def end(self) -> None:
        self.server.stop()
        async with asyncio.timeout(DEADLINE_S):
            await self.serving


async def test_what_runs_is_finished_and_new_connections_are_refused() -> None:
    served = await Served("a").up()
    url = f"http://127.0.0.1:{served.server.port}"
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=DEADLINE_S) as client:
        asking = asyncio.create_task(client.get("/held"))
        await served.asked.wait()
        leaving = asyncio.create_task(served.server.leave())
        async with asyncio.timeout(DEADLINE_S), httpx.AsyncClient(trust_env=False) as other:
            while True:
                try:
                    await other.get(url)
                except httpx.ConnectError:
                    break
                await asyncio.sleep(0.01)
        assert not leaving.done()
        served.go_on.set()
        answer = await asking
        assert (answer.text, answer.headers["connection"]) == ("a", "close")
        async with asyncio.timeout(DEADLINE_S):
            await leaving
    await served.end()


async def test_an_open_connection_is_served_once_more_and_told_to_close() -> None:
    served = await Served("a").up()
    url = f"http://127.0.0.1:{served.server.port}"
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=DEADLINE_S) as client:
        assert "connection" not in (await client.get("/")).headers
        asking = asyncio.create_task(served.server.leave())
        await asyncio.sleep(0)
        answer = await client.get("/")
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        async with asyncio.timeout(DEADLINE_S):
            await asking
    await served.end()


async def test_idle_connections_are_closed() -> None:
    served = await Served("a").up()
    reader, writer = await asyncio.open_connection("127.0.0.1", served.server.port)
    leaving = asyncio.create_task(served.server.leave())
    async with asyncio.timeout(DEADLINE_S):
        assert await reader.read() == b""
        await leaving
    writer.close()
    await served.end()


@pytest.mark.slow
async def test_two_servers_share_a_port_and_one_that_leaves_costs_no_request() -> None:
    port = free_port()
    servers = [await Served(name).up() for name in "ab"]
    for each in servers:
        await each.server.share_port(port)
    seen: list[str] = []

    async def ask() -> None:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=DEADLINE_S) as client:
            seen.append((await client.get("/")).text)

    for _ in range(100):
        await ask()
    assert set(seen) == {"a", "b"}
    leaving = asyncio.create_task(servers[0].server.leave())
    seen.clear()
    await asyncio.gather(*(ask() for _ in range(50)))
    async with asyncio.timeout(DEADLINE_S):
        await leaving
    seen.clear()
    for _ in range(20):
        await ask()
    assert set(seen) == {"b"}
    for each in servers:
        await each.end()
