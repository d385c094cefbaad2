"""Mixed traffic of one gateway: every kind of request that clients make, wrong and cancelled ones too, each judged at its end."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx
import msgspec

TTFT_DEADLINE_S = 30.0
HANG_S = 90.0
"""Time after which a request counts as hanging: the deadlines of its first and next token, and slack."""
CANCELLED_AFTER_PIECES = 3


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of request with its prompt, and the text that answers it."""

    kind: str
    path: str
    body: dict[str, Any]
    right: str
    """Empty where the request is wrong and must be refused."""
    cancelled: bool = False


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    kind: str
    begun_at: float
    """Moments by time.monotonic()."""
    ended_at: float
    code: str
    """`right`, `cancelled`, `refused` (as it had to be), `wrong_tokens`, `hang`, `connection`, or the server's error code."""
    detail: str = ""


class Traffic:
    """Asks at random moments, `rate_req_s` requests a second on average, at most `limit` at once."""

    def __init__(
        self, url: str, asks: Callable[[random.Random], Awaitable[Ask]], rate_req_s: float, limit: int, seed: int
    ) -> None:
        self._url = url
        self._asks = asks
        self._rate_req_s = rate_req_s
        self._limit = limit
        self._random = random.Random(seed)
        self._running: set[asyncio.Task[None]] = set()
        self.ended: list[Ended] = []
        self.not_sent = 0
        """Requests that were due while `limit` others ran."""

    async def run(self, until_at: float) -> None:
        """Returns when all requests are over that were due before `until_at`."""
        timeout = httpx.Timeout(HANG_S, connect=5.0)
        async with httpx.AsyncClient(base_url=self._url, timeout=timeout, limits=httpx.Limits(max_connections=None)) as client:
            while time.monotonic() < until_at:
                await asyncio.sleep(self._random.expovariate(self._rate_req_s))
                if len(self._running) >= self._limit:
                    self.not_sent += 1
                    continue
                task = asyncio.create_task(self._ask(client, await self._asks(self._random)))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
            if self._running:
                await asyncio.wait(self._running)

    async def _ask(self, client: httpx.AsyncClient, ask: Ask) -> None:
        begun_at = time.monotonic()
        try:
            async with asyncio.timeout(HANG_S):
                code, detail = await outcome(client, ask)
        except (TimeoutError, httpx.TimeoutException) as error:
            code, detail = "hang", repr(error)
        except httpx.HTTPError as error:
            code, detail = "connection", repr(error)
        if code == "wrong_tokens":
            print(f"wrong tokens: {ask.kind}, {ask.body}: {detail}", flush=True)
        self.ended.append(Ended(kind=ask.kind, begun_at=begun_at, ended_at=time.monotonic(), code=code, detail=detail))


async def outcome(client: httpx.AsyncClient, ask: Ask) -> tuple[str, str]:
    """Returns how one request ends, and what there is to say of it. Raises httpx.HTTPError."""
    headers = {"x-prfaas-ttft-deadline-s": f"{TTFT_DEADLINE_S:g}"}
    text, error, pieces = "", "", 0
    async with client.stream("POST", ask.path, json=ask.body, headers=headers) as response:
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            body = msgspec.json.decode(await response.aread())
            error = body.get("error", {}).get("code") or "" if response.status_code != 200 else ""
            if not ask.right:
                refused = 400 <= response.status_code < 500 and response.status_code != 429
                return ("refused", "") if refused else (error or str(response.status_code), str(body)[:200])
            if response.status_code != 200:
                return error or str(response.status_code), str(body)[:200]
            text = _text(body["choices"][0])
            return _judged(text, ask.right, whole=True)
        async for line in response.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event = msgspec.json.decode(line.removeprefix("data: ").encode())
            if "error" in event:
                error = event["error"].get("code") or "error"
                break
            for choice in event["choices"]:
                text += _text(choice)
                pieces += 1
            if ask.cancelled and pieces >= CANCELLED_AFTER_PIECES:
                break
    judged = _judged(text, ask.right, whole=not error and not ask.cancelled)
    if judged[0] == "right" and ask.cancelled:
        return "cancelled", ""
    return (error, "") if error and judged[0] == "right" else judged


def _text(choice: dict[str, Any]) -> str:
    for part in (choice.get("message"), choice.get("delta")):
        if part is not None:
            return str(part.get("content") or "")
    return str(choice.get("text") or "")


def _judged(text: str, right: str, *, whole: bool) -> tuple[str, str]:
    """Compares an answer, or the beginning of one that ended early."""
    good = text == right if whole else right.startswith(text)
    return ("right", "") if good else ("wrong_tokens", f"{text!r}, expected {right!r}")


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt as a client writes it, for one of the two APIs."""

    path: str
    fields: dict[str, Any]
    output_tokens: int


def kinds_of(model: str, prompt: Prompt, right: str, source: random.Random) -> Ask:
    """Returns one request of a random kind with this prompt: streamed or not, greedy or seeded, cancelled now and then."""
    body: dict[str, Any] = {"model": model, "max_tokens": prompt.output_tokens, "ignore_eos": True} | prompt.fields
    body["stream"] = stream = source.random() < 0.6
    cancelled = stream and source.random() < 0.1
    words = [prompt.path.rpartition("/")[2], "stream" if stream else "whole", "cancelled" if cancelled else "kept"]
    return Ask(kind=" ".join(words), path=prompt.path, body=body, right=right, cancelled=cancelled)


WRONG: Sequence[tuple[str, dict[str, Any]]] = (
    ("/v1/completions", {"prompt": "x", "max_tokens": -1}),
    ("/v1/completions", {"prompt": [1 << 40], "max_tokens": 4}),
    ("/v1/completions", {"prompt": "x", "max_tokens": 4, "model": "no-such-model"}),
    ("/v1/chat/completions", {"messages": "hello", "max_tokens": 4}),
    ("/v1/chat/completions", {"messages": [], "max_tokens": 4}),
    ("/v1/completions", {"prompt": "x", "temperature": "hot"}),
)


def wrong_ask(model: str, source: random.Random) -> Ask:
    path, fields = source.choice(WRONG)
    return Ask(kind="wrong", path=path, body={"model": model} | fields, right="")
