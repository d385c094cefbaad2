"""One attack on a gateway, in a process of its own, until SIGTERM.

`python -m load.bench.hostile.attacks KIND --port PORT --model MODEL --key KEY`. Prints `ready` when the attack has begun, and at
the end how often what came back. It runs at a lower priority: on a machine that both share, the gateway's cost of an attack
counts, not the attacker's own.
"""

import argparse
import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

NICENESS: Final = 10
IDLE_SOCKETS: Final = 2000
SLOW_BODIES: Final = 600
LONG_ANSWERS: Final = 32
LONG_TOKENS: Final = 2000
SHORT_TOKENS: Final = 4
PIPELINED: Final = 5000
HUGE_BODY_BYTES: Final = 4 << 20
DRIPPING_HEADS: Final = 200
PAUSE_S: Final = 0.02
"""Pause between two attempts of those that want to be quick."""
SLOW_PAUSE_S: Final = 1.0
"""Pause between two attempts of those that want to hold something for long."""


class Attacker:
    def __init__(self, port: int, model: str, key: str) -> None:
        self._port = port
        self._model = model
        self._key = key
        self.ends: Counter[str] = Counter()
        """Ends of attempts: the status that came, or `closed`."""

    @property
    def kinds(self) -> dict[str, tuple[int, Callable[[], Awaitable[None]]]]:
        """Returns what each kind does at once, how often."""
        return {
            "header_flood": (16, self._header_flood),
            "idle_sockets": (IDLE_SOCKETS, self._idle),
            "slow_bodies": (SLOW_BODIES, self._slow_body),
            "huge_bodies": (8, self._huge_body),
            "long_answers": (LONG_ANSWERS, self._long_answer),
            "above_limits": (16, self._short_answer),
            "many_prompts": (16, self._short_answer),
            "slow_readers": (64, self._slow_reader),
            "pipelined": (16, self._pipelined),
            "dripping_heads": (DRIPPING_HEADS, self._dripping_head),
        }

    async def repeat(self, attempt: Callable[[], Awaitable[None]]) -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await attempt()
            await asyncio.sleep(SLOW_PAUSE_S if attempt in (self._slow_body, self._idle) else PAUSE_S)

    @contextlib.asynccontextmanager
    async def _connected(self, receive_buffer_bytes: int = 0) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        client = socket.socket()
        client.setblocking(False)
        if receive_buffer_bytes:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        try:
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", self._port))
            reader, writer = await asyncio.open_connection(sock=client, limit=receive_buffer_bytes or 1 << 16)
        except BaseException:
            client.close()
            raise
        try:
            yield reader, writer
        except OSError:
            self.ends["closed"] += 1
            raise
        finally:
            writer.transport.abort()

    def _head(self, length: int) -> bytes:
        lines = ["POST /v1/completions HTTP/1.1", "host: x", f"authorization: Bearer {self._key}", "connection: close"]
        return "\r\n".join([*lines, f"content-length: {length}", "", ""]).encode()

    def _request(self, max_tokens: int) -> bytes:
        fields = {"model": self._model, "prompt": "again and again", "max_tokens": max_tokens, "stream": True, "ignore_eos": True}
        body = json.dumps(fields).encode()
        return self._head(len(body)) + body

    async def _count(self, reader: asyncio.StreamReader) -> None:
        answer = await reader.read(64)
        self.ends[answer[9:12].decode("latin-1") or "closed"] += 1

    async def _header_flood(self) -> None:
        async with self._connected() as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\n" + (b"x: " + b"a" * 1000 + b"\r\n") * 1000)
            await writer.drain()
            await self._count(reader)

    async def _idle(self) -> None:
        async with self._connected() as (reader, _):
            await self._count(reader)

    async def _slow_body(self) -> None:
        async with self._connected() as (reader, writer):
            writer.write(self._head(1000))
            answer = asyncio.ensure_future(self._count(reader))
            try:
                while not answer.done():
                    writer.write(b" ")
                    await asyncio.wait([answer], timeout=1.0)
            finally:
                answer.cancel()

    async def _huge_body(self) -> None:
        async with self._connected() as (reader, writer):
            start = json.dumps({"model": self._model, "prompt": ""}).encode()[:-2]
            writer.write(self._head(HUGE_BODY_BYTES) + start + b"a" * (HUGE_BODY_BYTES - len(start) - 2) + b'"}')
            await writer.drain()
            await self._count(reader)

    async def _long_answer(self) -> None:
        await self._ask(LONG_TOKENS)

    async def _short_answer(self) -> None:
        await self._ask(SHORT_TOKENS)

    async def _ask(self, max_tokens: int) -> None:
        async with self._connected() as (reader, writer):
            writer.write(self._request(max_tokens))
            await self._count(reader)
            while await reader.read(1 << 16):
                pass

    async def _slow_reader(self) -> None:
        async with self._connected(receive_buffer_bytes=4096) as (reader, writer):
            writer.write(self._request(LONG_TOKENS))
            await self._count(reader)
            while await reader.read(1):  # noqa: ASYNC110
                await asyncio.sleep(1.0)

    async def _pipelined(self) -> None:
        async with self._connected() as (reader, writer):
            writer.write(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n" * PIPELINED)
            await writer.drain()
            await self._count(reader)
            while await reader.read(1 << 16):
                pass

    async def _dripping_head(self) -> None:
        async with self._connected() as (reader, writer):
            answer = asyncio.ensure_future(self._count(reader))
            try:
                for byte in b"GET /" + b"a" * 10_000:
                    if answer.done():
                        return
                    writer.write(bytes([byte]))
                    await asyncio.wait([answer], timeout=0.2)
            finally:
                answer.cancel()


KINDS: Final = tuple(Attacker(0, "", "").kinds)


async def attack(kind: str, attacker: Attacker) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    at_once, attempt = attacker.kinds[kind]
    tasks = [asyncio.create_task(attacker.repeat(attempt)) for _ in range(at_once)]
    print("ready", flush=True)
    await stopped.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    print(json.dumps(attacker.ends), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m load.bench.hostile.attacks", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--key", required=True)
    arguments = parser.parse_args()
    os.nice(NICENESS)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(attack(arguments.kind, Attacker(arguments.port, arguments.model, arguments.key)))


if __name__ == "__main__":
    main()
