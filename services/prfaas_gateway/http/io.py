"""Bodies in and out with limits and deadlines, and clients that leave."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final, Self, TypeVar

from starlette.datastructures import Headers
from starlette.types import Receive, Send

from prfaas.contracts.codes import FailureCode
from prfaas_gateway.body_places import BodyPlace, BodyPlaces
from prfaas_gateway.openai.answers import error_event
from prfaas_gateway.openai.errors import ApiError, invalid, too_large

Result = TypeVar("Result")

STREAMING: Final = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
"""Headers of a response that is a stream of events."""


class ClientGoneError(Exception):
    """The client closed the connection (`client_gone`), or does not read (`client_stalled`)."""

    def __init__(self, code: FailureCode = FailureCode.CLIENT_GONE) -> None:
        super().__init__(code)
        self.code = code


class Bodies:
    """Places of all bodies that are arriving or wait to be parsed."""

    def __init__(self, max_arriving: int, max_bytes: int) -> None:
        self.core = BodyPlaces(max_arriving, max_bytes)
        self.deadlines: dict[BodyPlace, asyncio.Timeout] = {}

    def enter(self, client: str) -> BodyPlace:
        place, given_up = self.core.enter(client)
        self._cut(given_up)
        return place

    def grow(self, place: BodyPlace, by_bytes: int) -> None:
        self._cut(self.core.grow(place, by_bytes))

    def _cut(self, given_up: Iterable[BodyPlace]) -> None:
        for place in given_up:
            if place in self.deadlines:
                self.deadlines[place].reschedule(asyncio.get_running_loop().time())


class Body:
    """A request's body, which arrives once and is taken once. As a context it holds a place among all bodies."""

    def __init__(self, headers: Headers, receive: Receive, limit_bytes: int, bodies: Bodies, client: str) -> None:
        """`client` is the tenant, or the address of one without a key."""
        self._headers = headers
        self._receive = receive
        self._limit_bytes = limit_bytes
        self._bodies = bodies
        self._client = client
        self._exhausted = False
        self._parts: list[bytes] = []

    def __enter__(self) -> Self:
        self._place = self._bodies.enter(self._client)
        return self

    def __exit__(self, *_: object) -> None:
        self.forget()

    def forget(self) -> None:
        """Gives the place to others: the body has been parsed."""
        self._bodies.core.leave(self._place)

    def take(self) -> bytes:
        """Returns the body, which is not kept."""
        data = b"".join(self._parts)
        self._parts.clear()
        return data

    async def arrive(self, timeout_s: float) -> None:
        """Raises ApiError (too large, too slow, compressed) and ClientGoneError. Holds no more than the limit in memory."""
        encoding = ", ".join(self._headers.getlist("content-encoding"))
        if any(coding.strip().lower() not in ("", "identity") for coding in encoding.split(",")):
            message = f"The body's content-encoding is `{encoding}`; this server reads plain bodies only."
            raise invalid(message, "content-encoding", FailureCode.UNSUPPORTED_VALUE)
        declared = self._headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > self._limit_bytes:
            raise too_large(self._limit_bytes)
        until_at = asyncio.get_running_loop().time() + timeout_s
        try:
            async with asyncio.timeout_at(until_at) as self._bodies.deadlines[self._place]:
                await self._all_parts()
        except TimeoutError as error:
            message = f"The request's body did not arrive within {timeout_s:g} s."
            if asyncio.get_running_loop().time() < until_at:
                message = "The request's body was still arriving when other requests needed its room."
            raise ApiError(408, message, code=FailureCode.REQUEST_TIMEOUT) from error
        finally:
            self._bodies.deadlines.pop(self._place, None)
        self._bodies.core.arrived(self._place)

    async def _all_parts(self) -> None:
        read_bytes = 0
        while not self._exhausted:
            part = await self._next()
            read_bytes += len(part)
            if read_bytes > self._limit_bytes:
                raise too_large(self._limit_bytes)
            self._parts.append(part)
            self._bodies.grow(self._place, len(part))

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        self._exhausted = not message.get("more_body", False)
        part: bytes = message.get("body", b"")
        return part


class Reply:
    """One HTTP response and its state."""

    def __init__(self, send: Send, write_timeout_s: float) -> None:
        self._send = send
        self._write_timeout_s = write_timeout_s
        self.headers: dict[str, str] = {}
        """Headers of the response, be it an answer or an error."""
        self.status: int | None = None
        self.complete = False
        self.failure: Callable[[ApiError], bytes] = lambda error: error_event(error.encode())
        """Makes the end of a stream that has begun and fails, in the words of its dialect."""
        self._given_up = False
        """True when the client has not read for too long."""

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        self.status = status
        encoded = [(name.encode(), value.encode("latin-1", "replace")) for name, value in {**self.headers, **headers}.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Waits while the client reads slowly. Raises ClientGoneError when it does not read at all."""
        self.complete = self.complete or last
        task = asyncio.current_task()
        assert task is not None
        cancelling = task.cancelling()
        # A timer of its own, once for each token: asyncio.timeout() costs several times as much.
        timer = asyncio.get_running_loop().call_later(self._write_timeout_s, self._give_up, task)
        try:
            await self._send({"type": "http.response.body", "body": data, "more_body": not last})
        except asyncio.CancelledError:
            if not self._given_up or task.uncancel() > cancelling:  # somebody else stops this request as well
                raise
            raise ClientGoneError(FailureCode.CLIENT_STALLED) from None
        finally:
            timer.cancel()

    def _give_up(self, writing: asyncio.Task[object]) -> None:
        self._given_up = True
        writing.cancel()

    async def json(self, status: int, pieces: Sequence[bytes], headers: Mapping[str, str]) -> None:
        """Sends a whole answer.

        uvicorn reads and drops the rest of a refused request's body: a reset would take the answer with it."""
        size = sum(map(len, pieces))
        await self.start(status, {**headers, "content-type": "application/json", "content-length": str(size)})
        for piece in pieces[:-1]:
            await self.write(piece)
        await self.write(pieces[-1], last=True)


async def until_disconnect(receive: Receive, reply: Reply, work: Coroutine[Any, Any, Result]) -> Result:
    """Runs `work` and cancels it when the client leaves. The body must have been read. Raises ClientGoneError."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        # A complete response looks like a disconnect too.
        if not working.done() and not reply.complete:
            working.cancel()
            await asyncio.wait({working})
            raise ClientGoneError
        return await working
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
