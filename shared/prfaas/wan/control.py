"""Changing a link that runs as a process: one line of JSON in, one line of JSON out, over a TCP connection."""

import asyncio

import msgspec
from msgspec import UNSET, UnsetType

from prfaas.site.link_shape import LinkShape
from prfaas.wan.proxy import LinkState, WanProxy


class LinkControlError(Exception):
    """Raised when the link's process refuses the change or is not reached in time."""


class LinkChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab", omit_defaults=True):
    """Change of a link. Fields that are left out stay as they are; an empty change asks for the status."""

    rate_mbit: float | UnsetType | None = UNSET
    rtt_ms: float | UnsetType = UNSET
    jitter_ms: float | UnsetType = UNSET
    loss: float | UnsetType = UNSET
    queue_ms: float | UnsetType = UNSET
    state: LinkState | UnsetType = UNSET
    stall_s: float | UnsetType = UNSET
    """Seconds in which nothing arrives; nothing is lost."""


class LinkStatus(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    state: LinkState
    stalled: bool
    shape: LinkShape
    connections: int
    forward_bytes: int
    backward_bytes: int


class _Refused(msgspec.Struct, frozen=True):
    error: str


def link_status(proxy: WanProxy) -> LinkStatus:
    forward_bytes, backward_bytes = proxy.delivered_bytes
    return LinkStatus(
        state=proxy.state,
        stalled=proxy.stalled,
        shape=proxy.shape,
        connections=proxy.connections,
        forward_bytes=forward_bytes,
        backward_bytes=backward_bytes,
    )


async def apply_change(proxy: WanProxy, change: LinkChange) -> LinkStatus:
    """Applies a change. Raises ValueError for a shape that makes no sense."""
    fields = {name: getattr(change, name) for name in ("rate_mbit", "rtt_ms", "jitter_ms", "loss", "queue_ms")}
    proxy.reshape(**{name: value for name, value in fields.items() if value is not UNSET})
    if change.state is LinkState.UP:
        await proxy.restore()
    elif change.state is LinkState.CUT:
        await proxy.cut()
    elif change.state is LinkState.HALF_OPEN:
        await proxy.half_open()
    if not isinstance(change.stall_s, UnsetType):
        proxy.stall(change.stall_s)
    return link_status(proxy)


async def serve_control(proxy: WanProxy, host: str, port: int) -> asyncio.Server:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                reply: LinkStatus | _Refused
                try:
                    reply = await apply_change(proxy, msgspec.json.decode(line, type=LinkChange))
                except ValueError as error:  # of our checks and of msgspec's
                    reply = _Refused(error=str(error))
                writer.write(msgspec.json.encode(reply) + b"\n")
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    return await asyncio.start_server(answer, host, port)


async def change_link(host: str, port: int, change: LinkChange, timeout_s: float = 30.0) -> LinkStatus:
    """Changes the link whose control port this is. Raises LinkControlError."""
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(msgspec.json.encode(change) + b"\n")
                line = await reader.readline()
            finally:
                writer.close()
                await writer.wait_closed()
    except (OSError, TimeoutError) as error:
        raise LinkControlError(f"the link's control port {host}:{port} did not answer: {error!r}") from error
    if b'"error"' in line:
        raise LinkControlError(msgspec.json.decode(line, type=_Refused).error)
    return msgspec.json.decode(line, type=LinkStatus)
