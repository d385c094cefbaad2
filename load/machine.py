"""What this machine had left while something ran on it: else a benchmark may have measured its processors."""

import time
from collections.abc import Iterable
from typing import Self

import msgspec
import psutil


class CpuUse(msgspec.Struct, frozen=True, kw_only=True):
    """Shares of all processors together, 0 to 1."""

    idle: float
    """Of all that ran on the machine."""
    ours: float
    """The processes that were watched."""


class CpuMeter:
    """Watches processes by their ids, and the client that this process is."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._processes = [psutil.Process(pid) for pid in pids]
        self._processes.append(psutil.Process())

    def start(self) -> Self:
        self._started_s = time.monotonic()
        self._idle_s = psutil.cpu_times().idle
        self._used_s = self._used()
        return self

    def stop(self) -> CpuUse:
        capacity_s = (time.monotonic() - self._started_s) * (psutil.cpu_count() or 1)
        return CpuUse(
            idle=min(1.0, (psutil.cpu_times().idle - self._idle_s) / capacity_s), ours=(self._used() - self._used_s) / capacity_s
        )

    def _used(self) -> float:
        used_s = 0.0
        for process in self._processes:
            times = process.cpu_times()
            used_s += times.user + times.system
        return used_s
