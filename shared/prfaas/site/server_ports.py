"""TCP ports of one nats-server."""

from typing import NamedTuple


class ServerPorts(NamedTuple):
    """TCP ports. Before the first start 0 means "pick a free one"; afterwards it means "this server has none"."""

    client: int = 0
    leaf: int = 0
    monitor: int = 0
    cluster: int = 0
    """Never picked: the other servers of the cluster are told it before this one starts."""
