"""An open-loop client: requests leave when they are due, however long the answers to earlier ones take.

All times count from the moment at which a request is due, never from its sending: the delay of a client that falls behind is
part of the result instead of hidden (coordinated omission).
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

import h11
import msgspec

READ_BYTES = 1 << 16
MAX_IN_FLIGHT = 4096
"""More requests at once are not sent but recorded as `client_full`: then the result says nothing about the server any more."""


class Arrival(NamedTuple):
    arrival_s: float
    """Moment at which the request is due, seconds after the start of the run."""
    prompt_tokens: int
    output_tokens: int
    block_ids: Sequence[int] = ()
    """Names of the prompt's blocks, where it may share a prefix with others: equal ids have equal content, and everything before
    them too. The last one may reach beyond the prompt."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    url: str
    """`http://host:port` of an OpenAI-compatible server."""
    model: str
    timeout_s: float = 120.0
    """Longest time between the moment at which a request is due and its last byte."""
    ttft_deadline_s: float | None = None
    """Sent along as `x-prfaas-ttft-deadline-s`."""
    api_key: str = ""


class Record(msgspec.Struct, kw_only=True):
    """One request and its end. Times are seconds after the start of the run."""

    arrival: Arrival
    sent_s: float | None = None
    first_s: float | None = None
    last_s: float | None = None
    """The answer's last token."""
    gaps_s: list[float] = []
    """Times between two pieces of text."""
    tokens: int = 0
    """Answer's tokens, as the server counted them."""
    cached_tokens: int = 0
    """Prompt tokens that the server did not compute, as it says."""
    text: str = ""
    outcome: str = ""
    prefill_site: str = ""
    status: int = 0
    error: str = ""
    """Empty: answered in full. Else the server's error code, or `timeout`, `connection`, `protocol`, `cut_off`, `client_full`."""
    message: str = ""

    @property
    def ttft_s(self) -> float | None:
        return None if self.first_s is None else self.first_s - self.arrival.arrival_s

    @property
    def tpot_s(self) -> float | None:
        """Mean time per token after the first."""
        if self.first_s is None or self.last_s is None or self.tokens < 2:
            return None
        return (self.last_s - self.first_s) / (self.tokens - 1)

    @property
    def lag_s(self) -> float:
        """Delay of this client itself."""
        return 0.0 if self.sent_s is None else self.sent_s - self.arrival.arrival_s


Prompts = Callable[[int, Arrival], Sequence[int] | str]
"""(index of the request, arrival) -> the prompt: token ids, or text."""


def random_bytes(seed: int, block_tokens: int = 0) -> Prompts:
    """Prompts of byte tokens in which no two requests share a prefix, but for the blocks that their arrivals name."""

    def prompt(index: int, arrival: Arrival) -> list[int]:
        named = arrival.block_ids[: arrival.prompt_tokens // block_tokens] if block_tokens else ()
        shared = [token for block in named for token in random.Random(f"{seed} {block}").randbytes(block_tokens)]
        return shared + list(random.Random(seed << 32 | index).randbytes(arrival.prompt_tokens - len(shared)))

    return prompt


async def replay(
    target: Target, arrivals: Iterable[Arrival], prompts: Prompts, on_record: Callable[[Record], None] = lambda record: None
) -> list[Record]:
    """Sends every request when it is due and waits for all answers. Arrivals are in order of time; records too."""
    start_s = time.monotonic()
    records: list[Record] = []
    in_flight = 0

    async def one(record: Record, prompt: Sequence[int] | str) -> None:
        nonlocal in_flight
        in_flight += 1
        await _Request(target, record, start_s).run(prompt)
        in_flight -= 1
        on_record(record)

    async with asyncio.TaskGroup() as tasks:
        for index, arrival in enumerate(arrivals):
            prompt = prompts(index, arrival)
            await asyncio.sleep(start_s + arrival.arrival_s - time.monotonic())
            record = Record(arrival=arrival)
            records.append(record)
            if in_flight < MAX_IN_FLIGHT:
                tasks.create_task(one(record, prompt))
            else:
                record.error, record.message = "client_full", f"{MAX_IN_FLIGHT} requests are in flight"
                on_record(record)
    return records


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    completion_tokens: int
    prompt_tokens_details: _PromptDetails | None = None


class _Error(msgspec.Struct):
    message: str = ""
    code: str | int | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Error | None = None


_chunks = msgspec.json.Decoder(_Chunk)


class _Failed(Exception):
    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.error = error


class _Request:
    def __init__(self, target: Target, record: Record, start_s: float) -> None:
        self._target = target
        self._record = record
        self._start_s = start_s

    async def run(self, prompt: Sequence[int] | str) -> None:
        record = self._record
        left_s = self._target.timeout_s - (self._now_s() - record.arrival.arrival_s)
        try:
            async with asyncio.timeout(left_s):
                await self._exchange(self._body(prompt))
        except TimeoutError:
            record.error, record.message = "timeout", f"not over after {self._target.timeout_s:g} s"
        except OSError as error:
            record.error, record.message = "connection", str(error)
        except (h11.ProtocolError, msgspec.DecodeError) as error:
            record.error, record.message = "protocol", str(error)
        except _Failed as error:
            record.error, record.message = error.error, str(error)

    def _now_s(self) -> float:
        return time.monotonic() - self._start_s

    def _body(self, prompt: Sequence[int] | str) -> bytes:
        return msgspec.json.encode(
            {
                "model": self._target.model,
                "prompt": prompt,
                "max_tokens": self._record.arrival.output_tokens,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        )

    def _request(self, body: bytes) -> h11.Request:
        parts = urlsplit(self._target.url)
        headers = [("host", parts.netloc), ("content-type", "application/json"), ("content-length", str(len(body)))]
        headers.append(("connection", "close"))
        if self._target.ttft_deadline_s is not None:
            headers.append(("x-prfaas-ttft-deadline-s", f"{self._target.ttft_deadline_s:g}"))
        if self._target.api_key:
            headers.append(("authorization", f"Bearer {self._target.api_key}"))
        return h11.Request(method="POST", target="/v1/completions", headers=headers)

    async def _exchange(self, body: bytes) -> None:
        parts = urlsplit(self._target.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            http = h11.Connection(h11.CLIENT)
            head = http.send(self._request(body)) or b""
            self._record.sent_s = self._now_s()
            writer.write(head + (http.send(h11.Data(data=body)) or b"") + (http.send(h11.EndOfMessage()) or b""))
            await self._read(http, reader)
        finally:
            writer.close()

    async def _read(self, http: h11.Connection, reader: asyncio.StreamReader) -> None:
        record = self._record
        pending = b""
        finished = False
        async for event in _events(http, reader):
            if isinstance(event, h11.Response):
                headers = {name.decode(): value.decode() for name, value in event.headers}
                record.status = event.status_code
                record.outcome = headers.get("x-prfaas-outcome", "")
                record.prefill_site = headers.get("x-prfaas-prefill-site", "")
            elif isinstance(event, h11.Data):
                pending += bytes(event.data)
                if record.status == 200:
                    *whole, pending = pending.split(b"\n\n")
                    for message in whole:
                        finished = self._message(message) or finished
        if record.status != 200:
            error = _chunks.decode(pending).error or _Error()
            raise _Failed(str(error.code or f"http_{record.status}"), error.message)
        if not finished:
            raise _Failed("cut_off", "the stream ended without a finish reason")

    def _message(self, message: bytes) -> bool:
        """Takes one event of the stream in. Returns whether it says that the answer is complete."""
        data = message.removeprefix(b"data:").strip()
        if not message.startswith(b"data:") or data == b"[DONE]":
            return False
        chunk = _chunks.decode(data)
        record = self._record
        if chunk.error is not None:
            raise _Failed(str(chunk.error.code or "stream_error"), chunk.error.message)
        if chunk.usage is not None:
            record.tokens = chunk.usage.completion_tokens
            details = chunk.usage.prompt_tokens_details
            record.cached_tokens = (details.cached_tokens or 0) if details else 0
        finished = False
        for choice in chunk.choices:
            if text := choice.text or (choice.delta and choice.delta.content):
                self._text(text)
            finished = finished or choice.finish_reason is not None
        return finished

    def _text(self, text: str) -> None:
        record = self._record
        now_s = self._now_s()
        if record.last_s is None:
            record.first_s = now_s
        else:
            record.gaps_s.append(now_s - record.last_s)
        record.last_s = now_s
        record.text += text


async def _events(http: h11.Connection, reader: asyncio.StreamReader) -> AsyncIterator[h11.Event]:
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await reader.read(READ_BYTES))
            continue
        if isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            return
        assert not isinstance(event, type), "nothing pauses a client's connection"
        yield event
