"""The machine that a benchmark ran on, and the processor time that it had left: without any, the machine was measured."""

import os
import platform
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Self

import msgspec
import psutil


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """Moment, machine and versions of a benchmark's run."""

    machine: str
    cpus: int
    load_average: float
    """Load of the last minute at the start; other work on the machine disturbs the figures, and ratios less."""
    date: str
    """Start, ISO 8601, UTC."""
    versions: dict[str, str]
    """Python, the kernel, and the libraries that matter to the benchmark."""


def conditions(*packages: str) -> Conditions:
    """Takes the conditions now, before the benchmark. `packages`: distributions whose versions are noted."""
    versions = {"python": platform.python_version(), "linux": platform.release()}
    return Conditions(
        machine=_machine_name(),
        cpus=os.cpu_count() or 1,
        load_average=os.getloadavg()[0],
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions | {name: version(name) for name in packages},
    )


def _machine_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores"


class CpuUse(msgspec.Struct, frozen=True, kw_only=True):
    """Shares of all processors together, 0 to 1."""

    idle: float
    """Share left by everything that ran on the machine."""
    ours: float
    """Share of the processes that were watched."""


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
