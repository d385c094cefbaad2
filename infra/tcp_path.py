"""A path of real TCP on one machine: an address that leads back here through a rate, a delay, a queue and losses.

Other than the emulated link, which passes on what a stream carries, this one passes on packets, so that the kernel's own TCP slow
starts, backs off and sends again. It is a TUN device: what is sent to FAR comes back as if FAR had sent it to NEAR. It needs the
right to make one, best in a network namespace of its own (`unshare --net`), where it meets nothing else.
"""

import contextlib
import fcntl
import heapq
import multiprocessing
import os
import random
import select
import struct
import subprocess
import time
from collections.abc import Iterator
from typing import NamedTuple

from prfaas.process.child import running_with_parent

NEAR, FAR = "10.99.0.1", "10.99.0.2"
_DEVICE = "prfaas0"
_MTU_BYTES = 1500
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_CONTEXT = multiprocessing.get_context("fork")
"""Hands the open device to the child process."""
_BATCH = 64
_SPIN_S = 0.0003
"""poll counts in milliseconds; what is due sooner is waited for actively."""


class TcpPath(NamedTuple):
    rate_bytes_per_s: float
    rtt_s: float
    loss_share: float = 0.0
    """Share of the packets to `port` that are lost; acknowledgements come through."""
    congestion_control: str = "cubic"

    @property
    def queue_bytes(self) -> float:
        """Returns the queue's size: a bandwidth-delay product, as routers have, and no less than a burst."""
        return max(self.rate_bytes_per_s * self.rtt_s, 64_000)


@contextlib.contextmanager
def tcp_path(path: TcpPath, port: int) -> Iterator[None]:
    """Connections to FAR reach listeners on NEAR. `port`: where the receiving side listens. Raises OSError where this process may
    not make a device, subprocess.CalledProcessError where `ip` fails."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH", _DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
        for command in (
            "ip link set lo up",
            f"ip addr add {NEAR}/24 dev {_DEVICE}",
            f"ip link set {_DEVICE} up mtu {_MTU_BYTES} txqueuelen 1000",
            f"ip route change 10.99.0.0/24 dev {_DEVICE} src {NEAR} congctl {path.congestion_control}",
        ):
            subprocess.run(command.split(), check=True, capture_output=True)
        forwarder = _CONTEXT.Process(target=running_with_parent(_forward), args=(device, path, port), daemon=True)
        forwarder.start()
        try:
            yield
        finally:
            forwarder.terminate()
            forwarder.join()
    finally:
        os.close(device)


def _forward(device: int, path: TcpPath, port: int) -> None:
    chance = random.Random(1)
    waiting: list[tuple[float, int, bytes]] = []
    free_s = [0.0, 0.0]
    """Moment until which each direction is busy with what it has."""
    poll = select.poll()
    poll.register(device, select.POLLIN)
    count = 0
    while True:
        now_s = time.monotonic()
        while waiting and waiting[0][0] <= now_s:
            with contextlib.suppress(BlockingIOError):
                os.write(device, heapq.heappop(waiting)[2])
        left_s = waiting[0][0] - now_s if waiting else 1.0
        poll.poll(left_s * 1e3 if left_s > _SPIN_S else 0)
        for _ in range(_BATCH):
            try:
                packet = os.read(device, _MTU_BYTES)
            except BlockingIOError:
                break
            if packet[0] >> 4 != 4:
                continue
            now_s = time.monotonic()
            (to_port,) = struct.unpack_from("!H", packet, 22)
            forth = to_port == port
            if forth and chance.random() < path.loss_share:
                continue
            start_s = max(free_s[forth], now_s)
            if (start_s - now_s) * path.rate_bytes_per_s > path.queue_bytes:
                continue
            free_s[forth] = start_s + len(packet) / path.rate_bytes_per_s
            count += 1
            # Source and destination change places, which no checksum notices.
            mirrored = packet[:12] + packet[16:20] + packet[12:16] + packet[20:]
            heapq.heappush(waiting, (free_s[forth] + path.rtt_s / 2, count, mirrored))
