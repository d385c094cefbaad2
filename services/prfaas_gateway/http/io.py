"""Bodies in and out with limits and deadlines, and clients that leave."""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from starlette.datastructures import Headers
from starlette.types import Receive, Send

from prfaas.contracts.codes import FailureCode
from prfaas_gateway.openai.errors import ApiError, invalid, too_large

Result = TypeVar("Result")


class ClientGoneError(Exception):
    """The client closed the connection (`client_gone`), or does not read (`client_stalled`)."""

    def __init__(self, code: FailureCode = FailureCode.CLIENT_GONE) -> None:
        super().__init__(code)
        self.code = code


class Body:
    """A request's body, read once."""

    def __init__(self, headers: Headers, receive: Receive, limit_bytes: int) -> None:
        self._headers = headers
        self._receive = receive
        self._limit_bytes = limit_bytes
        self._exhausted = False

    async def read(self, timeout_s: float) -> bytes:
        """Raises ApiError (too large, too slow, compressed) and ClientGoneError. Holds no more than the limit in memory."""
        encoding = ", ".join(self._headers.getlist("content-encoding"))
        if any(coding.strip().lower() not in ("", "identity") for coding in encoding.split(",")):
            message = f"The body's content-encoding is `{encoding}`; this server reads plain bodies only."
            raise invalid(message, "content-encoding", FailureCode.UNSUPPORTED_VALUE)
        declared = self._headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > self._limit_bytes:
            raise too_large(self._limit_bytes)
        parts: list[bytes] = []
        read_bytes = 0
        try:
            async with asyncio.timeout(timeout_s):
                while not self._exhausted:
                    part = await self._next()
                    read_bytes += len(part)
                    if read_bytes > self._limit_bytes:
                        raise too_large(self._limit_bytes)
                    parts.append(part)
        except TimeoutError as error:
            raise ApiError(
                408, f"The request's body did not arrive within {timeout_s:g} s.", code=FailureCode.REQUEST_TIMEOUT
            ) from error
        return b"".join(parts)

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        self._exhausted = not message.get("more_body", False)
        part: bytes = message.get("body", b"")
        return part


class Reply:
    """One HTTP response; knows how far it is."""

    def __init__(self, send: Send, write_timeout_s: float) -> None:
        self._send = send
        self._write_timeout_s = write_timeout_s
        self.headers: dict[str, str] = {}
        """Headers of the response, whatever becomes of the request."""
        self.status: int | None = None
        self.complete = False

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        self.status = status
        encoded = [(name.encode(), value.encode("latin-1", "replace")) for name, value in {**self.headers, **headers}.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Waits while the client reads slowly. Raises ClientGoneError when it does not read at all."""
        self.complete = self.complete or last
        try:
            async with asyncio.timeout(self._write_timeout_s):
                await self._send({"type": "http.response.body", "body": data, "more_body": not last})
        except TimeoutError as error:
            raise ClientGoneError(FailureCode.CLIENT_STALLED) from error

    async def json(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
        """Sends a whole answer. uvicorn reads and drops what is left of a refused request's body: a reset would take the answer
        with it."""
        await self.start(status, {**headers, "content-type": "application/json", "content-length": str(len(data))})
        await self.write(data, last=True)


async def until_disconnect(receive: Receive, reply: Reply, work: Coroutine[Any, Any, Result]) -> Result:
    """Runs `work`, and cancels it the moment that the client leaves: ClientGoneError. The body must have been read."""
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
