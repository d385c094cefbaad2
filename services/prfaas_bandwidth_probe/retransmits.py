"""Count of the segments of a link's connections that were sent again, by the kernel (TCP_INFO).

The connections belong to nats-server, so they are looked up with NETLINK_SOCK_DIAG, as `ss -ti` does. This needs no privilege,
but the same network namespace: elsewhere nothing is found.
"""

import socket
import struct
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

_SOCK_DIAG_BY_FAMILY, _NLMSG_ERROR, _NLMSG_DONE = 20, 2, 3
_REQUEST_AND_DUMP = 0x301
_NETLINK_SOCK_DIAG = 4
_INET_DIAG_INFO = 2
_ESTABLISHED = 1
_HEADER = struct.Struct("=IHHII")
_MESSAGE_BYTES = 72
"""struct inet_diag_msg; attributes follow it."""
_TOTAL_RETRANS_AT, _DATA_SEGS_OUT_AT = 100, 156
"""Offsets in struct tcp_info (linux/tcp.h), whose fields never move."""
_REPLY_BYTES = 1 << 16
_DEADLINE_S = 1.0
_OBSERVATIONS = 30


class Segments(NamedTuple):
    """Segments of one connection since it was opened."""

    sent: int
    """Segments with data, counted each time that they are sent."""
    retransmitted: int


def segments_to(addresses: Iterable[tuple[str, int]]) -> dict[tuple[str, int, int], Segments]:
    """Returns the segments of all established connections to these (IP address, port), by (far address, far port, near port).
    Raises OSError."""
    wanted = set(addresses)
    found: dict[tuple[str, int, int], Segments] = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        for host, far_port, near_port, info in _connections(family):
            if (host, far_port) in wanted and len(info) >= _DATA_SEGS_OUT_AT + 4:
                (retransmitted,) = struct.unpack_from("=I", info, _TOTAL_RETRANS_AT)
                (sent,) = struct.unpack_from("=I", info, _DATA_SEGS_OUT_AT)
                found[host, far_port, near_port] = Segments(sent, retransmitted)
    return found


def _connections(family: socket.AddressFamily) -> Iterator[tuple[str, int, int, bytes]]:
    """Yields (far address, far port, near port, struct tcp_info) of each connection."""
    request = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 1 << (_INET_DIAG_INFO - 1), 0, 1 << _ESTABLISHED) + bytes(48)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(_DEADLINE_S)
        netlink.send(_HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _REQUEST_AND_DUMP, 1, 0) + request)
        while True:
            for kind, body in _messages(netlink.recv(_REPLY_BYTES)):
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    raise OSError(-int(struct.unpack_from("=i", body)[0]), "the kernel tells nothing about TCP connections")
                near_port, far_port = struct.unpack_from(">HH", body, 4)
                address = body[24:40]
                host = socket.inet_ntop(family, address if family is socket.AF_INET6 else address[:4])
                yield host, far_port, near_port, _attributes(body[_MESSAGE_BYTES:]).get(_INET_DIAG_INFO, b"")


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : length]
        data = data[_aligned(length) :]


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            break
        found[kind] = data[4:length]
        data = data[_aligned(length) :]
    return found


def _aligned(length: int) -> int:
    return (length + 3) & ~3


class RetransmitShare:
    """Share of retransmitted segments over the last observations of a link's connections. Pure."""

    def __init__(self) -> None:
        self._seen: Mapping[tuple[str, int, int], Segments] = {}
        self._steps: deque[Segments] = deque(maxlen=_OBSERVATIONS)

    def observe(self, connections: Mapping[tuple[str, int, int], Segments]) -> None:
        sent = retransmitted = 0
        for key, now in connections.items():
            before = self._seen.get(key, Segments(0, 0))
            if now.sent < before.sent:  # another connection from the same port
                before = Segments(0, 0)
            sent += now.sent - before.sent
            retransmitted += max(0, now.retransmitted - before.retransmitted)
        if self._seen:  # else it would be all that was before this process
            self._steps.append(Segments(sent, retransmitted))
        self._seen = dict(connections)

    @property
    def share(self) -> float | None:
        """Share from 0 to 1; None while no segment was seen."""
        sent = sum(step.sent for step in self._steps)
        return min(1.0, sum(step.retransmitted for step in self._steps) / sent) if sent else None
