"""The word to clients of a server that leaves."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class SayFarewell:
    """ASGI middleware: once `leaving` is set, each answer tells its client to use this connection no more."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.leaving = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_farewell(message: Message) -> None:
            if self.leaving and message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        await self._app(scope, receive, send_farewell)
