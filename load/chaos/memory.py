"""Memory and descriptors of processes over time, and whether they grow."""

import asyncio
import time
from typing import NamedTuple

import msgspec
import psutil
from scipy import stats

from load.chaos.residue import pids_of
from prfaas.stack.stack import Stack

EVERY_S = 2.0
MIN_SAMPLES = 60
"""Fewer samples of one process give no slope: it was started again too often."""
WARM_SHARE = 0.4
"""Share of a process's samples before the slope begins: caches fill, allocators find their size."""


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """Slope of one process, by least squares over its life without its warm-up."""

    name: str
    pid: int
    lived_s: float
    rss_mib: float
    """Resident memory at the end."""
    mib_per_hour: float
    half_width_mib_per_hour: float
    """Half of the slope's 95 % interval."""
    descriptors_first: int
    descriptors_last: int


class Sample(NamedTuple):
    at: float
    rss_bytes: int
    descriptors: int


class Watch:
    """Samples every process of stacks until cancelled."""

    def __init__(self, stacks: dict[str, Stack]) -> None:
        self._stacks = stacks
        self._samples: dict[tuple[str, int], list[Sample]] = {}

    async def run(self) -> None:
        while True:
            for label, stack in self._stacks.items():
                for name, pid in pids_of(stack).items():
                    try:
                        process = psutil.Process(pid)
                        sample = Sample(time.monotonic(), process.memory_info().rss, process.num_fds())
                    except psutil.Error:
                        continue  # it has just ended
                    self._samples.setdefault((f"{label} {name}", pid), []).append(sample)
            await asyncio.sleep(EVERY_S)

    def growths(self) -> list[Growth]:
        """Returns the growth of every process that lived long enough for a slope."""
        return [
            growth(name, pid, samples) for (name, pid), samples in sorted(self._samples.items()) if len(samples) >= MIN_SAMPLES
        ]


def growth(name: str, pid: int, samples: list[Sample]) -> Growth:
    settled = samples[int(len(samples) * WARM_SHARE) :]
    fit = stats.linregress([sample.at for sample in settled], [sample.rss_bytes for sample in settled])
    # Neighbouring samples are alike: as many independent ones as there are minutes would be fair, so the interval is widened.
    independent = max(3.0, (settled[-1].at - settled[0].at) / 60.0)
    width = float(fit.stderr) * float(stats.t.ppf(0.975, independent - 2)) * (len(settled) / independent) ** 0.5
    per_hour = 3600.0 / (1 << 20)
    return Growth(
        name=name,
        pid=pid,
        lived_s=round(samples[-1].at - samples[0].at, 1),
        rss_mib=round(samples[-1].rss_bytes / (1 << 20), 1),
        mib_per_hour=round(float(fit.slope) * per_hour, 2),
        half_width_mib_per_hour=round(width * per_hour, 2),
        descriptors_first=settled[0].descriptors,
        descriptors_last=settled[-1].descriptors,
    )
