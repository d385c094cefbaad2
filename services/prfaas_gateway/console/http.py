"""Routes of the console: the page, its live stream, and the waterfall of one request.

The page has no data, so it needs no key. What has data asks for the same key as the API does, in the same header: no cookie is
set, so no other site can use a browser's. A page of another site gets no answer even where the API wants no key.
"""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from prfaas.console.changes import NOTHING, changes
from prfaas.contracts.codes import FailureCode
from prfaas.telemetry.wall_clock import unix_s
from prfaas_gateway.console.console import Console
from prfaas_gateway.http.headers import authorization_of
from prfaas_gateway.http.io import ClientGoneError, Reply, until_disconnect
from prfaas_gateway.openai.errors import ApiError
from prfaas_gateway.tenants.directory import Caller

PAGE: Final = Path(__file__).parent / "page"
KINDS: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
SECURITY_HEADERS: Final = {
    # Nothing from elsewhere, nothing inline, and no text that becomes markup by mistake.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
QUIET_S: Final = 15.0
"""Time after which a stream without news says that it lives."""


class Door(NamedTuple):
    """Decides who may see what."""

    caller: Callable[[Scope], Caller]
    """Returns who asks. Raises ApiError 401."""
    may_see_all: Callable[[Caller], bool]
    """Tells whether a caller sees the requests of all tenants."""
    still_known: Callable[[str], bool]
    """Tells whether an `Authorization` header is one that `caller` lets in, without a word in the audit log."""
    write_timeout_s: float

    def enter(self, scope: Scope) -> Caller:
        """Raises ApiError 401, and 403 for a request that a page of another site makes."""
        if Headers(scope=scope).get("sec-fetch-site", "none") not in ("same-origin", "none"):
            raise ApiError(403, "The console's data is for its own page only.", code=FailureCode.INVALID_VALUE)
        return self.caller(scope)

    def tenant(self, caller: Caller) -> str | None:
        """Returns the label of the only tenant whose requests the caller sees; None: those of all."""
        return None if self.may_see_all(caller) else caller.tenant.label


class Events:
    """`/console/events`: the state and its changes as server-sent events, for clients that can send an API key."""

    def __init__(self, console: Console, door: Door) -> None:
        self._console = console
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = self._door.enter(scope)
        reply = Reply(send, self._door.write_timeout_s)
        reply.headers |= SECURITY_HEADERS
        client = caller.tenant.name or str((scope.get("client") or ("",))[0])
        authorization = authorization_of(Headers(scope=scope))
        with self._console.watched(client), suppress(ClientGoneError):
            await until_disconnect(receive, reply, self._tell(reply, self._door.tenant(caller), authorization))

    async def _tell(self, reply: Reply, tenant: str | None, authorization: str) -> None:
        """Writes one event at a time: a client that reads slowly makes nothing wait but itself."""
        clock = asyncio.get_running_loop().time
        await reply.start(200, {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store"})
        shown, told_at = NOTHING, clock()
        async for state in self._console.states(tenant):
            if not self._door.still_known(authorization):
                break
            event = changes(shown, state, unix_s())
            shown = state
            if event is not None:
                await reply.write(b"data: " + event + b"\n\n")
                told_at = clock()
            elif clock() - told_at >= QUIET_S:
                await reply.write(b": nothing new\n\n")
                told_at = clock()
        await reply.write(b"event: over\ndata: {}\n\n", last=True)


def console_routes(console: Console, door: Door) -> list[Route]:
    async def request_detail(request: Request) -> Response:
        caller = door.enter(request.scope)
        found = console.core.detail(door.tenant(caller), request.path_params["id"], asyncio.get_running_loop().time())
        if found is None:
            raise ApiError(404, "No such request is among the last ones.", code=FailureCode.UNKNOWN_URL)
        headers = {**SECURITY_HEADERS, "cache-control": "no-store"}
        return Response(msgspec.json.encode(found), media_type="application/json", headers=headers)

    events = Events(console, door)
    return [
        *_page_routes(),
        Route("/console/events", events, methods=["GET"]),
        Route("/console/requests/{id}", request_detail),
    ]


def _page_routes() -> Sequence[Route]:
    """Returns a route for each file of the page, read once."""
    return [
        Route("/console" if path.name == "index.html" else f"/console/{path.name}", _file(path))
        for path in sorted(PAGE.iterdir())
        if path.suffix in KINDS
    ]


def _file(path: Path) -> Callable[[Request], Response]:
    content = path.read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**SECURITY_HEADERS, "cache-control": "no-cache", "etag": tag}

    def answer(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=KINDS[path.suffix], headers=headers)

    return answer
