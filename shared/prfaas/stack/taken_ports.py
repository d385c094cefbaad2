"""Ports of a description that another program of this machine listens on already."""

import errno
import socket
from collections.abc import Iterator

from prfaas.site.sites import Description


def taken_ports(description: Description) -> str:
    """Returns a sentence, without its point, about the first port that is taken or that two processes want; empty: none."""
    wanted: dict[int, str] = {}
    for whose, port in _ports(description):
        if port in wanted:
            return f"the port {port} is wanted by {wanted[port]} and by {whose}: give one of them another"
        wanted[port] = whose
        if _is_taken(port):
            return f"the port {port}, which {whose} wants, is taken by another program: stop that one or choose another port"
    return ""


def _ports(description: Description) -> Iterator[tuple[str, int]]:
    shared: set[int] = set()
    for site in description.sites:
        for name, server in site.named_servers().items():
            ports = (server.client_port, server.leaf_port, server.monitor_port, server.cluster_port)
            yield from ((f"nats-server {name}", port) for port in ports if port)
    for service in description.services:
        whose = f"{service.name} of {service.site}"
        if service.http_port:
            yield whose, service.http_port
        common = service.config.get("http-shared-port", 0)
        if common and common not in shared:
            shared.add(common)
            yield whose, common


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        # As the servers do: a port of connections that were closed a moment ago is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False
