"""Heads of all answers of a process: request id, farewell, and a mark on event streams, which may hold comments."""

from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prfaas.process.request_ids import REQUEST_ID_HEADER, is_request_id, new_request_id

IS_EVENT_STREAM: Final = "is_event_stream"
"""Key of a scope's state that tells the protocol below."""


class AnswerHeads:
    """ASGI middleware. One wrapper of `send` for all three: every token of every answer passes it.

    The app below finds the request's id by `request_id_of`: the client's own where it is usable, else a new one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.leaving = False
        """Set when the server leaves: each answer then tells its client to use this connection no more."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        request_id = given if is_request_id(given) else new_request_id()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id

        async def send_changed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (REQUEST_ID_HEADER.encode(), request_id.encode())]
                state[IS_EVENT_STREAM] = dict(headers).get(b"content-type", b"").startswith(b"text/event-stream")
                if self.leaving:
                    headers.append((b"connection", b"close"))
                message["headers"] = headers
            await send(message)

        await self._app(scope, receive, send_changed)
