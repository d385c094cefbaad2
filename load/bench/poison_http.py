"""Poisonous requests of an HTTP client: each is one of a kind that once harmed other clients, or might."""

import asyncio
import contextlib
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

DEADLINE_S = 30.0
"""Longest time that one poison keeps its connection."""
EMOJI_IDS = [2] + [478, 397, 404, 391, 478, 1123] * 20
"""Byte tokens of gemma-3-270m: an emoji, half of one, then " x"."""
Poison = Callable[[], Awaitable[str]]
"""Sends itself and returns what came of it: a status, or how the connection ended."""


class HttpPoisons:
    def __init__(self, url: str, model: str, seed: int = 1) -> None:
        address = urlsplit(url)
        self._host, self._port = address.hostname or "", address.port or 80
        self._model = model
        self._random = random.Random(seed)

    def all(self) -> dict[str, Poison]:
        """Returns every kind by name."""
        bodies = {name: self._posting(body) for name, body in self._bodies().items()}
        heads = {name: self._sending(head) for name, head in self._heads().items()}
        return bodies | heads | {"leaves": self._leave, "half_closed": self._half_close, "cut_body": self._cut_body}

    def _bodies(self) -> dict[str, bytes]:
        good = {"model": self._model, "prompt": "alpha beta", "max_tokens": 8, "temperature": 0}
        chat = {"model": self._model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}

        def changed(**fields: Any) -> bytes:
            return json.dumps({**good, **fields}).encode()

        wrong: list[Any] = [None, True, -1, 1e308, "x", [], {}, [[]], {"a": [None]}, 10**30, "\ud83d\ude00" * 50, [None]]
        strange = [self._random.choice(wrong) for _ in range(4)]
        return {
            "byte_tokens": changed(prompt=EMOJI_IDS, max_tokens=24),
            "random_ids": changed(prompt=[self._random.randrange(300) for _ in range(64)], max_tokens=24, stream=True),
            "hot_text": changed(temperature=2.0, ignore_eos=True, max_tokens=64, stream=True),
            "huge_text": changed(prompt="alpha beta " * 370_000),
            "huge_ids": changed(prompt=[7] * 900_000),
            "foreign_ids": changed(prompt=[2**31, -1, 2**63, 10**9]),
            "nulls": json.dumps(dict.fromkeys(good)).encode(),
            "null_fields": changed(stop=None, seed=None, stream_options=None, logprobs=None, user=None),
            "null_options": changed(stream=True, stream_options={"include_usage": None}),
            "wrong_types": changed(**dict(zip(("prompt", "max_tokens", "stop", "seed"), strange, strict=True))),
            "wrong_messages": json.dumps({**chat, "messages": [{"role": 7, "content": {"a": None}}, None, []]}).encode(),
            "surrogates": b'{"model": "m", "prompt": "\\ud800"}',
            "not_utf8": b'{"model": "\xff\xfe", "prompt": "a"}',
            "not_json": b"{" * 5000,
            "deep_json": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
            "deep_list": b'{"prompt":' + b"[" * 100_000,
            "huge_number": b'{"model": "m", "prompt": "a", "max_tokens": ' + b"9" * 20_000 + b"}",
            "nan": b'{"model": "m", "prompt": "a", "temperature": NaN}',
            "many_stops": changed(stop=["\n"] * 5000),
            "logprobs": changed(logprobs=5, echo=True, n=1 << 40),
            "beyond_context": changed(prompt=[7] * 200_000, max_tokens=1 << 40),
        }

    def _heads(self) -> dict[str, bytes]:
        body = json.dumps({"model": self._model, "prompt": "a", "max_tokens": 2}).encode()
        post = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
        length = b"content-length: %d\r\n" % len(body)
        return {
            "no_http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20,
            "bad_length": post + b"content-length: -5\r\n\r\n" + body,
            "two_lengths": post + length + b"content-length: 3\r\n\r\n" + body,
            "length_and_chunks": post + length + b"transfer-encoding: chunked\r\n\r\n" + body,
            "bad_chunks": post + b"transfer-encoding: chunked\r\n\r\nZZZ\r\n" + body,
            "many_headers": post + b"".join(b"x-%d: y\r\n" % n for n in range(2000)) + length + b"\r\n" + body,
            "long_header": post + b"x-long: " + b"y" * (1 << 20) + b"\r\n" + length + b"\r\n" + body,
            "bad_deadline": post + b"x-prfaas-ttft-deadline-s: nan\r\n" + length + b"\r\n" + body,
            "bad_trace": post + b"traceparent: 00-zz\r\ntracestate: ,,=\xff\r\nbaggage: ;=\r\n" + length + b"\r\n" + body,
            "bad_encoding": post + b"content-encoding: gzip\r\n" + length + b"\r\n" + body,
            "bad_path": b"GET /%00/../v1/%ff HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
            "bad_method": b"\x00\x01 / HTTP/9.9\r\n\r\n",
        }

    def _posting(self, body: bytes) -> Poison:
        head = f"POST /v1/completions HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: application/json\r\nconnection: close\r\n"
        return self._sending(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)

    def _sending(self, content: bytes) -> Poison:
        async def send() -> str:
            return await self._talk(content)

        return send

    async def _leave(self) -> str:
        """Leaves in the middle of a stream."""
        body = json.dumps({"model": self._model, "prompt": "a b c", "max_tokens": 64, "stream": True}).encode()
        return await self._talk(self._post(body), read_bytes=200)

    async def _half_close(self) -> str:
        """Shuts its side after the request, as a client may, and reads the answer."""
        body = json.dumps({"model": self._model, "prompt": "a b c", "max_tokens": 8}).encode()
        return await self._talk(self._post(body), shut=True)

    async def _cut_body(self) -> str:
        """Promises a body and shuts its side in the middle of it."""
        return await self._talk(self._post(b"x" * 1000)[:-900], shut=True)

    def _post(self, body: bytes) -> bytes:
        return b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body

    async def _talk(self, content: bytes, *, read_bytes: int = -1, shut: bool = False) -> str:
        try:
            async with asyncio.timeout(DEADLINE_S):
                reader, writer = await asyncio.open_connection(self._host, self._port)
                try:
                    writer.write(content)
                    with contextlib.suppress(ConnectionError):  # an early refusal closes what is still being sent
                        await writer.drain()
                    if shut:
                        writer.write_eof()
                    answer = await reader.read(read_bytes)
                finally:
                    writer.transport.abort()
        except TimeoutError:
            return "timeout"
        except OSError:
            return "closed"
        words = answer.split(b" ", 2)
        return words[1].decode("latin-1") if len(words) > 2 else "closed"
