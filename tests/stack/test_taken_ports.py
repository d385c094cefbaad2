import socket
from pathlib import Path

import msgspec

from prfaas.site.sites import Description, load_description
from prfaas.stack.free_port import free_port
from prfaas.stack.launch import DEMO, describe
from prfaas.stack.taken_ports import taken_ports


def with_client_port(description: Description, port: int) -> Description:
    sites = tuple(msgspec.structs.replace(site, client_port=port) for site in description.sites)
    return msgspec.structs.replace(description, sites=sites)


def test_a_taken_port_is_told_with_whom_it_is_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = taken_ports(describe(DEMO, None, port))
        assert (
            said
            == f"the port {port}, which gateway of local wants, is taken by another program: stop that one or choose another port"
        )
    assert taken_ports(describe(DEMO, None, port)) == ""


def test_two_processes_that_want_one_port_are_told() -> None:
    said = taken_ports(with_client_port(load_description(DEMO), port := free_port()))
    assert said.startswith(f"the port {port} is wanted by nats-server local and by nats-server remote")


def test_gateways_may_share_a_port(tmp_path: Path) -> None:
    path = tmp_path / "sites.toml"
    path.write_text(DEMO.read_text().replace('role = "gateway"', 'role = "gateway"\nreplicas = 2'))
    assert taken_ports(describe(path, None, free_port())) == ""
