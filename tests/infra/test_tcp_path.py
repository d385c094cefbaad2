"""The path in a network namespace of its own, where this process may make one."""

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from infra.tcp_path import FAR, NEAR, TcpPath, tcp_path
from tests.machine import need_success

PORT = 39_001
RTT_S = 0.02
ROOT = Path(__file__).parents[2]


def carry() -> None:
    """Everything comes back, later than the round trip, although packets are lost."""
    data = bytes(range(256)) * 1024
    with tcp_path(TcpPath(50e6 / 8, RTT_S, loss_share=0.02), PORT), socket.create_server((NEAR, PORT)) as listener:

        def echo() -> None:
            with listener.accept()[0] as far:
                while received := far.recv(1 << 16):
                    far.sendall(received)

        threading.Thread(target=echo, daemon=True).start()
        with socket.create_connection((FAR, PORT), timeout=30) as near:
            started_s = time.monotonic()
            near.sendall(b"x")
            assert near.recv(1) == b"x"
            assert time.monotonic() - started_s >= RTT_S, "nothing is faster than the path"
            sending = threading.Thread(target=near.sendall, args=(data,), daemon=True)
            sending.start()
            received = b""
            while len(received) < len(data):
                received += near.recv(1 << 16)
            assert received == data


def test_tcp_goes_through_the_path_and_takes_its_time() -> None:
    alone = ["unshare", "--net"]
    need_success("a network namespace with a device in it", [*alone, "test", "-w", "/dev/net/tun"])
    child = "from tests.infra.test_tcp_path import carry; carry()"
    subprocess.run([*alone, sys.executable, "-c", child], cwd=ROOT, check=True, timeout=60)
