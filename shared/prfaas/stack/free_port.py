"""A port that nothing listens on, for programs that cannot pick one themselves."""

import random
import socket
from pathlib import Path

_EPHEMERAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST_PORT = 20_000
_TRIES = 100


def free_port() -> int:
    """Returns a TCP port of 127.0.0.1 that was free a moment ago."""
    for port in random.sample(_quiet_ports(), _TRIES):
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    with socket.create_server(("127.0.0.1", 0)) as taken:
        taken_port: int = taken.getsockname()[1]
        return taken_port


def _quiet_ports() -> range:
    # A port of the ephemeral range may become another program's own end of a connection before it is listened on.
    try:
        first_ephemeral_port = int(_EPHEMERAL_PORTS.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first_ephemeral_port = 32_768
    return range(_LOWEST_PORT, max(first_ephemeral_port, _LOWEST_PORT + _TRIES))
