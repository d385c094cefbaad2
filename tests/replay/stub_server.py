"""An OpenAI-compatible server of known behaviour on port 0, for the tests of the replay."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import msgspec
from aiohttp import web


class Stub:
    """Answers every prompt with as many pieces of text as it asks for; a token is a token id, or a byte of text."""

    def __init__(self) -> None:
        self.url = ""
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.ttft_s = 0.0
        self.gap_s = 0.0
        self.vocabulary = 256
        self.max_model_len: int | None = 10_000
        self.models = ["m"]
        self.tells_usage = True
        self.answer: Callable[[dict[str, Any]], Awaitable[web.StreamResponse | None]] | None = None
        """Gives an answer of its own to a body, or None for the ordinary one."""

    def prompt_tokens(self, body: dict[str, Any]) -> int:
        if "messages" in body:
            return 7 + sum(len(message["content"].encode()) for message in body["messages"])
        prompt = body["prompt"]
        return len(prompt.encode()) if isinstance(prompt, str) else len(prompt)

    async def models_page(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": name, "max_model_len": self.max_model_len} for name in self.models]})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = msgspec.json.decode(await request.read())
        self.bodies.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if self.answer is not None and (own := await self.answer(body)) is not None:
            return own
        prompt = body.get("prompt")
        if isinstance(prompt, list) and max(prompt) >= self.vocabulary:
            return web.json_response({"error": {"message": "no such token", "code": "invalid_value"}}, status=400)
        return await self.stream(request, body)

    async def stream(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        headers = {"content-type": "text/event-stream", "x-prfaas-prefill-site": "far", "x-prfaas-outcome": "offloaded"}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        await asyncio.sleep(self.ttft_s)
        chat = "messages" in body
        for place in range(body["max_tokens"]):
            if place and self.gap_s:
                await asyncio.sleep(self.gap_s)
            choice = {"delta": {"content": "x"}} if chat else {"text": "x"}
            await response.write(_event({"choices": [choice]}))
        await response.write(_event({"choices": [{"text": "", "finish_reason": "length"}]}))
        if self.tells_usage:
            usage = {"prompt_tokens": self.prompt_tokens(body), "completion_tokens": body["max_tokens"]}
            await response.write(_event({"choices": [], "usage": usage}))
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response


def _event(content: object) -> bytes:
    return b"data: " + msgspec.json.encode(content) + b"\n\n"


@contextlib.asynccontextmanager
async def stub_server() -> AsyncIterator[Stub]:
    stub = Stub()
    app = web.Application(client_max_size=1 << 26)
    app.router.add_get("/v1/models", stub.models_page)
    for path in ("/v1/completions", "/v1/chat/completions"):
        app.router.add_post(path, stub.complete)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    listening = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listening).start()
    stub.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        yield stub
    finally:
        await runner.cleanup()


@contextlib.contextmanager
def stub_in_thread() -> Iterator[Stub]:
    """Serves from a thread, beside code that runs an event loop of its own."""
    ready, over = threading.Event(), asyncio.Event()
    found: list[Stub] = []
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with stub_server() as stub:
            found.append(stub)
            ready.set()
            await over.wait()

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        finally:
            loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(30.0)
    try:
        yield found[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
