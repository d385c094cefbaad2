"""A TCP port of this machine that nothing listens on, for programs that cannot pick one themselves."""

import socket


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
