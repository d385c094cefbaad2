"""`python -m load.bench.replay_stub LOG`: a server that answers with drawn latencies and writes down what it really did.

What it gave is taken from its own clock around its own writes: a busy machine delays its timers too, and that is no error of the
client's.
"""

import asyncio
import json
import random
import signal
import socket
import sys
import time
from pathlib import Path
from typing import NamedTuple, TextIO

import uvloop
from aiohttp import web

FIRST_LINE = "listening on "
TTFT_MEDIAN_S, TTFT_SIGMA = 0.08, 0.5
GAP_S = 0.01
_TEXT = b'data: {"choices":[{"index":0,"text":"x","finish_reason":null}]}\n\n'


class StubRow(NamedTuple):
    request_id: str
    came_at: float
    """Moment of time.time() when the request's head was read; the others are of the same clock."""
    first_at: float
    last_at: float
    """Moments just before the first and the last token were written."""
    tokens: int


class Server:
    def __init__(self, log: TextIO) -> None:
        self._log = log
        self._source = random.Random(1)

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "stub"}]})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        came_at = time.time()
        body = json.loads(await request.read())
        tokens = body["max_tokens"]
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await asyncio.sleep(self._source.lognormvariate(0.0, TTFT_SIGMA) * TTFT_MEDIAN_S)
        first_at = time.time()
        await response.write(_TEXT)
        last_at = first_at
        for _ in range(tokens - 1):
            await asyncio.sleep(GAP_S)
            last_at = time.time()
            await response.write(_TEXT)
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": tokens}
        end = json.dumps({"choices": [{"index": 0, "text": "", "finish_reason": "length"}], "usage": usage})
        await response.write(f"data: {end}\n\ndata: [DONE]\n\n".encode())
        await response.write_eof()
        row = StubRow(request.headers.get("x-request-id", ""), came_at, first_at, last_at, tokens)
        self._log.write(json.dumps(row) + "\n")
        return response


async def serve(log: Path) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    with log.open("w", encoding="utf-8") as file:
        server = Server(file)
        app = web.Application(client_max_size=1 << 26)
        app.router.add_get("/v1/models", server.models)
        app.router.add_post("/v1/completions", server.complete)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        await web.SockSite(runner, listening, backlog=1024).start()
        print(f"{FIRST_LINE}http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        await stopped.wait()
        await runner.cleanup()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))
