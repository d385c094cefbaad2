"""Streamed requests to an OpenAI-compatible server, over one pool of connections that no two requests share at once."""

import asyncio
import io
import time
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec

from prfaas.replay.prompts import Prompt
from prfaas.replay.record import Record
from prfaas.replay.stream import MAX_MESSAGE_CHARACTERS, Answer, AnswerError, error_of, printable

KEEP_ALIVE_S = 2.0
"""Idle time after which a connection is not used again; below the 5 s after which uvicorn and Node close theirs."""
CONNECT_S = 30.0
READ_BYTES = 1 << 20
_LARGE_BODY_BYTES = 1 << 19
"""Size from which a body is written in pieces, so that other requests get their turn."""
MAX_ERROR_BYTES = 1 << 16
"""Bytes of an error's body that are read; the connection of a longer one is closed."""
MAX_HEADER_CHARACTERS = 128


class Target(msgspec.Struct, frozen=True, kw_only=True):
    url: str
    """`http://host:port` of an OpenAI-compatible server, without `/v1`."""
    model: str
    timeout_s: float = 120.0
    """Longest time from the moment at which a request is due to its last byte."""
    ttft_deadline_s: float | None = None
    """Deadline that is sent along as `x-prfaas-ttft-deadline-s`; without it no header of ours is sent."""
    api_key: str = ""
    chat: bool = False
    """True when prompts go to /v1/chat/completions, each as one message of a user."""
    ignore_eos: bool = True
    """True when the server is asked for all tokens, beyond an end of text; a field of vLLM's that not all servers know."""


class Client:
    """Streams of one target. Moments are counted from `start_s` of time.monotonic()."""

    def __init__(self, target: Target, start_s: float) -> None:
        self._target = target
        self._start_s = start_s
        self._url = target.url.rstrip("/") + ("/v1/chat/completions" if target.chat else "/v1/completions")

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            read_bufsize=READ_BYTES,
            auto_decompress=True,
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._http.close()

    async def ask(self, record: Record, prompt: Prompt) -> None:
        """Fills the record in. What goes wrong is in it afterwards: nothing is raised but a cancellation."""
        left_s = self._target.timeout_s - (self.now_s() - record.arrival.arrival_s)
        try:
            async with asyncio.timeout(left_s):
                await self._exchange(record, self.body(record, prompt))
        except TimeoutError:
            record.error, record.message = "timeout", f"not over after {self._target.timeout_s:g} s"
        except AnswerError as error:
            record.error, record.message = error.code, str(error)
        except (aiohttp.ClientError, OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            record.error, record.message = _class_of(error, record), printable(str(error), MAX_MESSAGE_CHARACTERS)

    def body(self, record: Record, prompt: Prompt) -> bytes:
        fields: dict[str, Any] = {"model": self._target.model}
        if self._target.chat:
            fields["messages"] = [{"role": "user", "content": prompt}]
        else:
            fields["prompt"] = prompt
        fields |= {
            "max_tokens": record.arrival.output_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._target.ignore_eos:
            fields["ignore_eos"] = True
        return msgspec.json.encode(fields)

    def _headers(self, record: Record) -> dict[str, str]:
        headers = {"content-type": "application/json"}
        if record.request_id:
            headers["x-request-id"] = record.request_id
        if record.arrival.session.isascii() and record.arrival.session.isprintable() and record.arrival.session:
            headers["x-session-affinity"] = record.arrival.session[:256]
        if self._target.ttft_deadline_s is not None:
            headers["x-prfaas-ttft-deadline-s"] = f"{self._target.ttft_deadline_s:g}"
        if self._target.api_key:
            headers["authorization"] = f"Bearer {self._target.api_key}"
        return headers

    async def _exchange(self, record: Record, body: bytes) -> None:
        data = io.BytesIO(body) if len(body) > _LARGE_BODY_BYTES else body
        record.sent_s = self.now_s()
        async with self._http.post(self._url, data=data, headers=self._headers(record)) as response:
            record.status = response.status
            record.outcome = _header(response, "x-prfaas-outcome")
            record.prefill_site = _header(response, "x-prfaas-prefill-site")
            record.trace_id = _header(response, "x-prfaas-trace-id")
            if response.status != 200:
                raise error_of(response.status, await _error_body(response))
            answer = Answer(record)
            async for data in response.content.iter_any():
                answer.receive(data, self.now_s())
        answer.end()

    def now_s(self) -> float:
        return time.monotonic() - self._start_s


def _class_of(error: Exception, record: Record) -> str:
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError):
        # Before the answer's head it is the connection that failed, after it the answer.
        return "cut_off" if record.status else "connection"
    return "connection" if isinstance(error, aiohttp.ClientConnectionError | OSError) else "protocol"


def _header(response: aiohttp.ClientResponse, name: str) -> str:
    return printable(response.headers.get(name, ""), MAX_HEADER_CHARACTERS)


async def _error_body(response: aiohttp.ClientResponse) -> bytes:
    found = b""
    while len(found) < MAX_ERROR_BYTES and (data := await response.content.readany()):
        found += data
    if len(found) >= MAX_ERROR_BYTES:
        response.close()
    return found
