"""A mark on answers that are event streams, which may hold comments."""

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

IS_EVENT_STREAM: Final = "is_event_stream"
"""Key of a scope's state."""


class MarkEventStreams:
    """ASGI middleware: tells the protocol below that an answer may hold comments."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                content_type = dict(message.get("headers", ())).get(b"content-type", b"")
                scope["state"][IS_EVENT_STREAM] = content_type.startswith(b"text/event-stream")
            await send(message)

        await self._app(scope, receive, send_marked)
