"""Memory that this process may still take: what the host has free, and what its control groups (v2) leave of their limits."""

from collections.abc import Callable
from math import inf
from pathlib import Path

READING_HOLDS_S = 0.5
READING_MARGIN = 4
"""Divisor of what a reading leaves: more than that part is not taken without asking the kernel again."""
_UNLIMITED = "max"


def free_bytes(root: Path = Path("/")) -> int | None:
    """Returns the least of them; None where nothing is known. Pages of files that can be dropped count as free."""
    known = [each for each in (_host_bytes(root), *_group_bytes(root)) if each is not None]
    return max(0, min(known)) if known else None


class FreeMemory:
    """Free memory that is read seldom: a reading takes the processor time of several messages.

    All that was asked for since a reading counts as taken."""

    def __init__(self, read: Callable[[], int | None] = free_bytes) -> None:
        self._read = read
        self._read_at = -inf
        self._left_bytes: int | None = None

    def for_bytes(self, wanted_bytes: int, now_s: float) -> int | None:
        """Returns what may be taken, before these bytes are; None where nothing is known."""
        left_bytes = self._left_bytes
        held = now_s - self._read_at < READING_HOLDS_S and (left_bytes is None or wanted_bytes * READING_MARGIN <= left_bytes)
        if not held:
            left_bytes, self._read_at = self._read(), now_s
        self._left_bytes = None if left_bytes is None else max(0, left_bytes - wanted_bytes)
        return left_bytes


def _host_bytes(root: Path) -> int | None:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _group_bytes(root: Path) -> list[int]:
    """Returns what each group above this process leaves, the outer ones too."""
    found = []
    for line in _lines(root / "proc/self/cgroup"):
        if not line.startswith("0::"):
            continue
        mounted = root / "sys/fs/cgroup"
        group = mounted / line.removeprefix("0::").strip("/")
        while group.is_relative_to(mounted):
            limit, used = _number(group / "memory.max"), _number(group / "memory.current")
            if limit is not None and used is not None:
                found.append(limit - used + _droppable_bytes(group))
            group = group.parent
    return found


def _droppable_bytes(group: Path) -> int:
    for line in _lines(group / "memory.stat"):
        if line.startswith("inactive_file "):
            return int(line.split()[1])
    return 0


def _number(path: Path) -> int | None:
    """Returns None for a file that is not there, or says that there is no limit."""
    text = "".join(_lines(path)).strip()
    return int(text) if text and text != _UNLIMITED else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
