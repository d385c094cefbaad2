from pathlib import Path

import nats
import pytest

from prfaas.site.server_ports import ServerPorts
from prfaas.stack.nats_server import NatsServer, NatsServerError, plain_config


async def test_start_picks_ports_and_serves_jetstream(tmp_path: Path) -> None:
    async with NatsServer(tmp_path / "a") as server:
        assert all((server.ports.client, server.ports.leaf, server.ports.monitor))
        connection = await nats.connect(server.client_url)
        await connection.jetstream().add_stream(name="S", subjects=["s"])
        await connection.close()
        assert (await server.monitor("jsz"))["streams"] == 1
    assert not server.running


@pytest.mark.parametrize("crash", [False, True])
async def test_restart_keeps_ports_and_acknowledged_messages(tmp_path: Path, crash: bool) -> None:
    async with NatsServer(tmp_path) as server:
        connection = await nats.connect(server.client_url)
        await connection.jetstream().add_stream(name="S", subjects=["s"])
        await connection.jetstream().publish("s", b"kept")
        await connection.close()
        ports = server.ports
        if crash:
            server.kill()
            assert not server.running
        await server.restart()
        await server.wait_current()
        assert server.ports == ports
        connection = await nats.connect(server.client_url)
        assert (await connection.jetstream().get_msg("S", 1)).data == b"kept"
        await connection.close()


async def test_two_servers_side_by_side(tmp_path: Path) -> None:
    async with NatsServer(tmp_path / "a") as first, NatsServer(tmp_path / "b") as second:
        assert not set(first.ports) & set(second.ports) - {0}


async def test_a_bad_configuration_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(NatsServerError, match='unknown field "no_such_field"'):
        await NatsServer(tmp_path, lambda ports, store: "no_such_field: 1\n").start()


async def test_a_taken_port_is_an_error_not_a_hang(tmp_path: Path) -> None:
    async with NatsServer(tmp_path / "a") as first:
        second = NatsServer(tmp_path / "b", ports=ServerPorts(client=first.ports.client))
        with pytest.raises(NatsServerError, match="address already in use"):
            await second.start()
        assert not second.running


def clustered(ports: ServerPorts, store: Path) -> str:
    route = f'["nats://127.0.0.1:{ports.cluster}"]'
    return plain_config(ports, store) + f'cluster {{ name: one, listen: "127.0.0.1:{ports.cluster}", routes: {route} }}\n'


async def test_a_taken_port_for_the_others_of_a_cluster_is_an_error_too(tmp_path: Path) -> None:
    async with NatsServer(tmp_path / "a") as first:
        second = NatsServer(tmp_path / "b", clustered, ServerPorts(cluster=first.ports.client))
        with pytest.raises(NatsServerError, match="address already in use"):
            await second.start()
        assert not second.running
