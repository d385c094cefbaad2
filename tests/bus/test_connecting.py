"""Connections of the control bus that are refused, or find no server."""

import asyncio
from pathlib import Path

import nats
import pytest
import structlog

from prfaas.bus.connection import Connection
from prfaas.bus.control import ControlBus
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.bus.errors import NotConnectedError, PermissionDeniedError
from prfaas.contracts.to_gateway import Refusal
from prfaas.contracts.to_scheduler import PlaceRequest
from prfaas.site.server_ports import ServerPorts
from prfaas.stack.nats_server import NatsServer

DEADLINE_S = 60.0
PLACE = PlaceRequest(request_id="r1", model="m", prompt_tokens=7, max_tokens=1, ttft_deadline_s=30.0)


async def ignored(_: Exception) -> None:
    pass


async def test_a_server_that_is_not_there_is_told_once_with_its_address() -> None:
    with structlog.testing.capture_logs() as logs, pytest.raises(NotConnectedError):
        await ControlBus.connect(NatsEndpoint(url="nats://127.0.0.1:1"), "test", timeout_s=1.5)
    told = [entry for entry in logs if entry["event"] == "bus_error"]
    assert [entry["url"] for entry in told] == ["nats://127.0.0.1:1"]


async def test_no_server_is_a_named_error_at_the_deadline() -> None:
    with pytest.raises(
        NotConnectedError, match=r"no connection to NATS at nats://127\.0\.0\.1:1 within 1 s: .*Connect call failed"
    ):
        await ControlBus.connect(NatsEndpoint(url="nats://127.0.0.1:1"), "test", timeout_s=1.0)


async def test_a_missing_seed_file_is_named(server: NatsServer) -> None:
    endpoint = NatsEndpoint(url=server.client_url, nkey_seed_file="/nowhere/seed.nk")
    with pytest.raises(NotConnectedError, match=r"/nowhere/seed\.nk cannot be read"):
        await ControlBus.connect(endpoint, "test")


def locked_config(ports: ServerPorts, store: Path) -> str:
    return (
        f'port: {ports.client or -1}\nhost: 127.0.0.1\njetstream {{ store_dir: "{store}" }}\n'
        "authorization { users: [{ user: u, password: p, permissions: "
        '{ publish: ["ok", "_INBOX.>"], subscribe: ["ok", "_INBOX.>"] } }] }\n'
    )


async def test_a_refused_user_fails_at_once(tmp_path: Path) -> None:
    async with NatsServer(tmp_path, locked_config) as server:
        with pytest.raises(NotConnectedError, match=r"(?i)authorization violation"):
            await ControlBus.connect(NatsEndpoint(url=server.client_url), "test", timeout_s=60)


async def test_what_is_not_permitted_is_said_not_timed_out(tmp_path: Path) -> None:
    async with NatsServer(tmp_path, locked_config) as server:
        url = server.client_url.replace("//", "//u:p@")
        bus = await ControlBus.connect(NatsEndpoint(url=url), "test")
        with pytest.raises(PermissionDeniedError, match='publish to "place"'):
            await bus.request("Place", PLACE, Refusal, 60)
        with pytest.raises(PermissionDeniedError, match='subscription to "events"'):
            await bus.subscribe("events", Refusal, lambda _message: None)
        assert bus.connected
        await bus.drain()


async def test_tls_urls_never_speak_plain_text_first(server: NatsServer) -> None:
    """A plain server answers with INFO: the client must not go on in clear (nats-py would, without handshake-first)."""
    endpoint = NatsEndpoint(url=server.client_url.replace("nats://", "tls://"))
    async with asyncio.timeout(DEADLINE_S):
        while not (await server.monitor("varz"))["total_connections"]:
            with pytest.raises(NotConnectedError):
                await ControlBus.connect(endpoint, "test", timeout_s=0.5)
    connection = await nats.connect(server.client_url)  # and the server is fine
    await connection.close()


def where(connection: Connection) -> str:
    url = connection.client.connected_url
    assert url is not None
    return f"nats://{url.netloc}"


async def break_off(connection: Connection) -> None:
    """Ends the connection, with more bytes unsent than the sockets hold."""
    transport = connection.client._transport
    assert transport is not None
    transport.write(bytes(32 << 20))
    await connection.client.force_reconnect()


async def test_a_stopped_server_that_takes_no_bytes_is_left_for_the_next_one(tmp_path: Path) -> None:
    async with NatsServer(tmp_path / "a") as first, NatsServer(tmp_path / "b") as second:
        connection = Connection(NatsEndpoint(url=f"{first.client_url},{second.client_url}"), "test", lambda *_: None, ignored)
        await connection.open(DEADLINE_S)
        server = {server.client_url: server for server in (first, second)}[where(connection)]
        server.pause()
        try:
            await break_off(connection)
            async with asyncio.timeout(DEADLINE_S):
                while not connection.connected:
                    await asyncio.sleep(0.02)
            assert where(connection) != server.client_url
        finally:
            server.resume()
            await connection.close()


async def test_a_connection_to_a_stopped_server_can_be_closed(server: NatsServer) -> None:
    connection = Connection(NatsEndpoint(url=server.client_url), "test", lambda *_: None, ignored)
    await connection.open(DEADLINE_S)
    server.pause()
    try:
        await break_off(connection)
        await asyncio.sleep(0)
        async with asyncio.timeout(DEADLINE_S):
            await connection.close()
    finally:
        server.resume()
