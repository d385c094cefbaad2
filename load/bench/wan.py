"""Truth and speed of the emulated link: `python -m load.bench.wan`. The link is a process; the ends use blocking sockets.

Rate: payload that arrives per second, counted from the first byte read to the last. RTT: 100 bytes there and back, idle, and
beside a connection that saturates the link.
"""

import contextlib
import json
import multiprocessing
import socket
import statistics
import subprocess
import sys
import time

from prfaas.process import interruption
from prfaas.process.child import end_with_parent, running_with_parent

_CASES: tuple[tuple[float | None, float], ...] = ((None, 0.0), (1000.0, 20.0), (200.0, 20.0), (100.0, 20.0), (100.0, 80.0))
_SECONDS = 4.0
_PINGS = 60


def _serve(listener: socket.socket) -> None:
    """First byte of a connection: `e` echoes 100-byte messages, `s` sinks and answers with (bytes, seconds)."""
    while True:
        connection, _ = listener.accept()
        multiprocessing.Process(target=running_with_parent(_serve_one), args=(connection,), daemon=False).start()
        connection.close()


def _serve_one(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if connection.recv(1) == b"e":
        with contextlib.suppress(ConnectionResetError):  # the link ends with its process
            while message := connection.recv(100):
                connection.sendall(message)
        return
    buffer = bytearray(1 << 20)
    total, started_s, last_s = 0, 0.0, 0.0
    while size := connection.recv_into(buffer):
        last_s = time.monotonic()
        if not started_s:
            started_s = last_s
        else:
            total += size
    connection.sendall(json.dumps([total, last_s - started_s]).encode())
    connection.close()


def _sink(port: int, seconds: float) -> float:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"s")
        block, until_s = bytes(256 << 10), time.monotonic() + seconds
        while time.monotonic() < until_s:
            connection.sendall(block)
        connection.shutdown(socket.SHUT_WR)
        total, spent_s = json.loads(connection.recv(100))
        return float(total / spent_s)


def _ping_ms(port: int) -> list[float]:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(b"e")
        times_ms = []
        for _ in range(_PINGS):
            started_s = time.monotonic()
            connection.sendall(bytes(100))
            left = 100
            while left:
                left -= len(connection.recv(left))
            times_ms.append((time.monotonic() - started_s) * 1e3)
            time.sleep(0.005)
        return times_ms


def _describe(times_ms: list[float]) -> str:
    ordered = sorted(times_ms)
    return f"p50 {statistics.median(ordered):7.2f}  p90 {ordered[int(len(ordered) * 0.9)]:7.2f}  max {ordered[-1]:7.2f} ms"


def _measure(target_port: int, rate_mbit: float | None, rtt_ms: float) -> None:
    command = [sys.executable, "-m", "prfaas.wan", "--connect", f"127.0.0.1:{target_port}", "--rtt-ms", str(rtt_ms)]
    command += [] if rate_mbit is None else ["--rate-mbit", str(rate_mbit)]
    link = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=end_with_parent())
    try:
        assert link.stdout is not None
        port = json.loads(link.stdout.readline())["port"]
        idle_ms = _ping_ms(port)
        rate = _sink(port, _SECONDS)
        bulk = multiprocessing.Process(target=running_with_parent(_sink), args=(port, _SECONDS))
        bulk.start()
        time.sleep(0.5)
        busy_ms = _ping_ms(port)
        bulk.join()
        wanted = "unshaped" if rate_mbit is None else f"{rate_mbit:6.0f} Mbit/s ({rate * 8 / 1e6 / rate_mbit - 1:+.2%})"
        print(f"{wanted:28} rtt {rtt_ms:3.0f} ms: {rate * 8 / 1e6:8.1f} Mbit/s = {rate / 2**20:7.1f} MiB/s")
        print(f"{'':28} idle {_describe(idle_ms)}\n{'':28} busy {_describe(busy_ms)}", flush=True)
    finally:
        link.terminate()
        link.wait()


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    server = multiprocessing.Process(target=running_with_parent(_serve), args=(listener,))
    server.start()
    try:
        for rate_mbit, rtt_ms in _CASES:
            _measure(listener.getsockname()[1], rate_mbit, rtt_ms)
    finally:
        server.terminate()


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
