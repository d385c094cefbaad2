"""Client of a gateway's console: the state as it changes, and the waterfall of one request."""

import contextlib
from collections.abc import AsyncIterator

import aiohttp
import msgspec

from prfaas.console.changes import FollowedState
from prfaas.console.schema import RequestDetail

MAX_LINE_BYTES = 4 << 20
SILENCE_S = 30.0
"""Silence of a stream after which it counts as lost; the gateway says something every 15 s."""


class ConsoleError(Exception):
    """Raised when the gateway cannot be followed; the message is a sentence."""


class RefusedError(ConsoleError):
    """Raised when trying again is useless: the key is wrong, or there is no console."""


class ConsoleClient:
    def __init__(self, url: str, api_key: str) -> None:
        self._url = url.rstrip("/")
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=SILENCE_S)
        self._session = aiohttp.ClientSession(headers=headers, timeout=timeout, read_bufsize=MAX_LINE_BYTES)

    async def close(self) -> None:
        await self._session.close()

    async def follow(self) -> AsyncIterator[FollowedState]:
        """Yields the same state after each of its changes, until the stream ends. Raises ConsoleError."""
        state = FollowedState()
        try:
            async with self._session.get(f"{self._url}/console/events") as response:
                await self._check(response)
                async for line in response.content:
                    if line.startswith(b"event:"):
                        return  # it says that the stream is over
                    if line.startswith(b"data:"):
                        state.apply(line.removeprefix(b"data:").strip())
                        yield state
        except (aiohttp.ClientError, TimeoutError, ValueError, msgspec.MsgspecError) as error:
            raise ConsoleError(f"{self._url} cannot be followed: {error or type(error).__name__}") from error

    async def detail(self, request_id: str) -> RequestDetail:
        """Raises ConsoleError."""
        try:
            async with self._session.get(f"{self._url}/console/requests/{request_id}") as response:
                await self._check(response)
                return msgspec.json.decode(await response.read(), type=RequestDetail)
        except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError) as error:
            raise ConsoleError(f"the request cannot be shown: {error or type(error).__name__}") from error

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        """Raises ConsoleError unless the answer is a good one."""
        if response.status == 200:
            return
        said = f"{self._url} answers {response.status}"
        # Anything may stand at this URL: then the status alone is said.
        with contextlib.suppress(msgspec.MsgspecError, KeyError, TypeError):
            said = str(msgspec.json.decode(await response.read())["error"]["message"])
        if response.status in (401, 403) or (response.status == 404 and response.url.path.endswith("/events")):
            raise RefusedError(said)
        raise ConsoleError(said)
