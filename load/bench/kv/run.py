"""Runs one transfer between two fresh processes and measures it."""

import multiprocessing
import secrets
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import psutil
import uvloop

from load.bench.kv.methods import METHODS, Job, Signals, Times
from prfaas.process.child import running_with_parent

_CONTEXT = multiprocessing.get_context("spawn")
_TIMEOUT_S = 180.0
_CLEAR_REFS = Path("/proc/self/clear_refs")


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    seconds: float
    """Time between the sender's first put (paced: its last) and the receiver's last verified byte."""
    started_at: float
    """time.monotonic()"""
    first_byte_s: float
    mib_per_s: float
    cpu_s: tuple[float, float, float]
    """Sender, receiver, servers."""
    peak_rss_mib: tuple[float, float]
    """Growth over the prepared memory: sender, receiver."""


def _child(method: str, side: int, job: Job, pipe: Connection) -> None:
    marks: dict[str, float] = {}

    def ready(value: Any) -> None:
        # What preparing took at its peak is none of the transfer's: start the kernel's high-water mark again.
        _CLEAR_REFS.write_text("5")
        marks["cpu"], marks["rss"] = time.process_time(), _peak_rss_mib()
        pipe.send(value)

    async def main() -> Times:
        return await METHODS[method][side](job, Signals(ready, lambda: pipe.recv()))

    times = uvloop.run(main())
    pipe.send((*times, time.process_time() - marks["cpu"], _peak_rss_mib() - marks["rss"]))


def _peak_rss_mib() -> float:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) / 1024


def measure(method: str, job: Job, server_pids: Sequence[int] = ()) -> Measured:
    job = msgspec.structs.replace(job, run=secrets.token_hex(11))
    parents, processes = [], []

    def spawn(side: int, its_job: Job) -> Any:
        ours, theirs = _CONTEXT.Pipe()
        process = _CONTEXT.Process(target=running_with_parent(_child), args=(method, side, its_job, theirs), daemon=True)
        process.start()
        theirs.close()
        parents.append(ours)
        processes.append(process)
        return _receive(ours)

    try:
        port = spawn(1, job)
        if port is not None and job.tcp_address is None:
            job = msgspec.structs.replace(job, tcp_address=("127.0.0.1", port))
        spawn(0, job)
        before = _server_cpu_s(server_pids)
        parents[1].send("go")
        start, _, sender_cpu, sender_rss = _receive(parents[1])
        first, end, receiver_cpu, receiver_rss = _receive(parents[0])
        server_cpu = _server_cpu_s(server_pids) - before
        for process in processes:
            process.join(_TIMEOUT_S)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
    return Measured(
        seconds=end - start,
        started_at=start,
        first_byte_s=first - start,
        mib_per_s=job.total_bytes / 2**20 / (end - start),
        cpu_s=(sender_cpu, receiver_cpu, server_cpu),
        peak_rss_mib=(sender_rss, receiver_rss),
    )


def _receive(pipe: Connection) -> Any:
    if not pipe.poll(_TIMEOUT_S):
        raise TimeoutError("a benchmark process did not answer")
    return pipe.recv()


def _server_cpu_s(pids: Sequence[int]) -> float:
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)
