"""The lean client against the real server, in what it must survive."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import nkeys
import pytest

from prfaas.bus.bulk import BulkLane, DisconnectedError, LaneError, Message
from prfaas.bus.bulk import lane as lane_module
from prfaas.bus.bulk.wire import header_block
from prfaas.bus.endpoint import NatsEndpoint
from prfaas.site.server_ports import ServerPorts
from prfaas.stack.nats_server import NatsServer, plain_config

DEADLINE_S = 60.0


class Inbox:
    """Collects what one subject delivers."""

    def __init__(self, lane: BulkLane, subject: str) -> None:
        self.messages: asyncio.Queue[tuple[str, bytes, bytes]] = asyncio.Queue()
        self.sid = lane.subscribe(subject, self._take)

    def _take(self, message: Message) -> None:
        self.messages.put_nowait((message.reply, message.headers, bytes(message.payload)))
        message.release()

    async def next(self) -> tuple[str, bytes, bytes]:
        async with asyncio.timeout(DEADLINE_S):
            return await self.messages.get()


class Watcher:
    """A lane listener that a test can wait on."""

    def __init__(self, lane: BulkLane) -> None:
        self.events: asyncio.Queue[str] = asyncio.Queue()
        lane.add_listener(self)

    def connected(self) -> None:
        self.events.put_nowait("connected")

    def disconnected(self) -> None:
        self.events.put_nowait("disconnected")

    def writable(self) -> None:
        self.events.put_nowait("writable")

    def server_error(self, text: str) -> None:
        self.events.put_nowait(text)

    async def wait_for(self, part: str) -> str:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                if part in (event := await self.events.get()):
                    return event


@asynccontextmanager
async def serving(directory: Path, render: Callable[[ServerPorts, Path], str] = plain_config) -> AsyncIterator[NatsServer]:
    async with NatsServer(directory / "nats", render) as server:
        yield server


@asynccontextmanager
async def connected(endpoint: NatsEndpoint | str) -> AsyncIterator[BulkLane]:
    if isinstance(endpoint, str):
        endpoint = NatsEndpoint(url=endpoint)
    lane = await BulkLane.connect(endpoint, name="test", timeout_s=DEADLINE_S)
    try:
        yield lane
    finally:
        await lane.close()


def publish(lane: BulkLane, subject: str, *parts: bytes, headers: bytes = b"") -> None:
    lane.publish(subject, [memoryview(part) for part in parts], sum(map(len, parts)), headers=headers)


@pytest.mark.parametrize("size", [0, 1, 1000, 16 << 10, 100_000, 1 << 20, 2_000_000])
async def test_gathered_parts_arrive_as_one_payload(tmp_path: Path, size: int) -> None:
    async with serving(tmp_path) as server, connected(server.client_url) as lane:
        inbox = Inbox(lane, "a")
        first, second = os.urandom(size // 3), os.urandom(size - size // 3)
        publish(lane, "a", first, second)
        publish(lane, "a", first, headers=header_block({"Key": "value"}))
        assert await inbox.next() == ("", b"", first + second)
        _, headers, payload = await inbox.next()
        assert b"Key: value" in headers
        assert payload == first
        assert lane.pool.taken_bytes == 0


async def test_a_request_that_nobody_serves_says_so(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, connected(server.client_url) as lane:
        assert (await lane.request("nobody", timeout_s=DEADLINE_S)).status == 503


async def test_subscriptions_survive_the_servers_death(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, connected(server.client_url) as lane:
        inbox, watcher = Inbox(lane, "a"), Watcher(lane)
        server.kill()
        await watcher.wait_for("disconnected")
        with pytest.raises(DisconnectedError):
            publish(lane, "a", b"lost")
        await server.start()
        await watcher.wait_for("connected")
        publish(lane, "a", b"kept")
        assert (await inbox.next())[2] == b"kept"
        assert lane.reconnects == 1


async def test_one_can_wait_for_a_server_that_comes_back(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, connected(server.client_url) as lane:
        await lane.until_connected(0.0)
        watcher = Watcher(lane)
        server.kill()
        await watcher.wait_for("disconnected")
        with pytest.raises(DisconnectedError, match="is down"):
            await lane.until_connected(0.05)
        waiting = asyncio.create_task(lane.until_connected(DEADLINE_S))
        await server.start()
        await waiting
        assert lane.is_connected


async def test_a_pending_request_fails_at_once_when_the_connection_breaks(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, connected(server.client_url) as lane:
        lane.subscribe("mute", Message.release)
        request = asyncio.create_task(lane.request("mute", timeout_s=60))
        await lane.request("nobody", timeout_s=DEADLINE_S)
        server.kill()
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(DisconnectedError, match="broke"):
                await request


async def test_no_server_is_an_error_within_the_deadline() -> None:
    with pytest.raises(LaneError, match="no NATS server answered"):
        await BulkLane.connect(NatsEndpoint(url="nats://127.0.0.1:1"), name="test", timeout_s=0.3)


async def test_a_paused_server_counts_as_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_module, "_PING_INTERVAL_S", 0.05)
    monkeypatch.setattr(lane_module, "_SILENT_AFTER_S", 0.3)
    async with serving(tmp_path) as server, connected(server.client_url) as lane:
        watcher = Watcher(lane)
        server.pause()
        try:
            await watcher.wait_for("disconnected")
        finally:
            server.resume()
        await watcher.wait_for("connected")


async def test_a_lowered_max_payload_is_learned_by_reconnecting(tmp_path: Path) -> None:
    """A server that reloads its configuration tells no client: the first message that is too large cuts the connection."""
    limits = ["2MB"]

    def config(ports: ServerPorts, store: Path) -> str:
        return plain_config(ports, store).replace("max_payload: 2MB", f"max_payload: {limits[-1]}")

    async with serving(tmp_path, config) as server:
        await server.restart()  # With the ports it picked in its file: a reload must not change them.
        async with connected(server.client_url) as lane:
            inbox, watcher = Inbox(lane, "a"), Watcher(lane)
            limits.append("64KB")
            server.config_path.write_text(config(server.ports, server.directory / "store"))
            os.kill(server.pid, signal.SIGHUP)
            async with asyncio.timeout(DEADLINE_S):
                while "max_payload = 65536" not in server.log_path.read_text():
                    await lane.request("nobody", timeout_s=DEADLINE_S)
            publish(lane, "a", bytes(70_000))
            await watcher.wait_for("Maximum Payload Violation")
            await watcher.wait_for("disconnected")
            await watcher.wait_for("connected")
            with pytest.raises(LaneError, match="max_payload of 65536"):
                publish(lane, "a", bytes(70_000))
            publish(lane, "a", b"small")
            assert (await inbox.next())[2] == b"small"


async def test_a_slow_reader_is_cut_off_and_comes_back(tmp_path: Path) -> None:
    def impatient(ports: ServerPorts, store: Path) -> str:
        return plain_config(ports, store) + "max_pending: 4MB\n"

    async with serving(tmp_path, impatient) as server, connected(server.client_url) as slow, connected(server.client_url) as fast:
        watcher = Watcher(slow)
        inbox = Inbox(slow, "a")
        await slow.request("nobody", timeout_s=DEADLINE_S)
        transport = slow._wire._transport  # type: ignore[union-attr]
        assert transport is not None
        transport.pause_reading()
        for _ in range(40):
            publish(fast, "a", bytes(1_000_000))
            await fast.request("nobody", timeout_s=DEADLINE_S)
        transport.resume_reading()
        await watcher.wait_for("disconnected")
        await watcher.wait_for("connected")
        await slow.request("nobody", timeout_s=DEADLINE_S)  # its subscription has come before this
        while not inbox.messages.empty():
            inbox.messages.get_nowait()
        publish(fast, "a", b"again")
        assert (await inbox.next())[2][:5] == b"again"


@pytest.fixture
def seed_file(tmp_path: Path) -> Path:
    path = tmp_path / "user.nk"
    path.write_bytes(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))
    return path


def nkey_config(seed_file: Path) -> Callable[[ServerPorts, Path], str]:
    public = nkeys.from_seed(bytearray(seed_file.read_bytes())).public_key.decode()
    permissions = 'permissions: { publish: { allow: ["ok.>", "a"] }, subscribe: ">" }'

    def render(ports: ServerPorts, store: Path) -> str:
        return plain_config(ports, store) + f"authorization {{ users: [ {{ nkey: {public}, {permissions} }} ] }}\n"

    return render


async def test_an_nkey_lets_us_in_and_its_permissions_are_reported(tmp_path: Path, seed_file: Path) -> None:
    async with (
        serving(tmp_path, nkey_config(seed_file)) as server,
        connected(NatsEndpoint(url=server.client_url, nkey_seed_file=str(seed_file))) as lane,
    ):
        inbox, watcher = Inbox(lane, "a"), Watcher(lane)
        publish(lane, "forbidden.subject", b"x")
        assert "forbidden.subject" in await watcher.wait_for("Permissions Violation")
        publish(lane, "a", b"still here")
        assert (await inbox.next())[2] == b"still here"


async def test_without_the_key_the_server_refuses_by_name(tmp_path: Path, seed_file: Path) -> None:
    async with serving(tmp_path, nkey_config(seed_file)) as server:
        with pytest.raises(LaneError, match="Authorization Violation"):
            await BulkLane.connect(NatsEndpoint(url=server.client_url), name="test", timeout_s=DEADLINE_S)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    certificate, key = tmp_path / "server.crt", tmp_path / "server.key"
    text = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    command = [*text.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


async def test_tls_comes_before_the_first_byte(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    def render(ports: ServerPorts, store: Path) -> str:
        tls = f'tls {{ cert_file: "{certificate[0]}", key_file: "{certificate[1]}", handshake_first: true }}\n'
        return plain_config(ports, store) + tls

    async with serving(tmp_path, render) as server:
        url = server.client_url.replace("nats://", "tls://")
        async with connected(NatsEndpoint(url=url, tls_ca_file=str(certificate[0]))) as lane:
            inbox = Inbox(lane, "a")
            data = os.urandom(600_000)
            publish(lane, "a", data[:1000], data[1000:])
            assert (await inbox.next())[2] == data


async def test_a_server_in_plain_text_is_refused_over_tls(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    """nats-py would talk to it in the clear."""
    async with serving(tmp_path) as server:
        url = server.client_url.replace("nats://", "tls://")
        with pytest.raises(LaneError, match="no NATS server answered"):
            await BulkLane.connect(NatsEndpoint(url=url, tls_ca_file=str(certificate[0])), name="test", timeout_s=0.5)


def test_an_address_that_is_none_is_named() -> None:
    with pytest.raises(LaneError, match="http://x"):
        BulkLane(NatsEndpoint(url="http://x"), name="test")
