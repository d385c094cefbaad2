"""Memory that this process may still take: what the host has free, and what its control groups (v2) leave of their limits."""

from pathlib import Path

_UNLIMITED = "max"


def free_bytes(root: Path = Path("/")) -> int | None:
    """Returns the least of them; None where nothing is known. Pages of files that can be dropped count as free."""
    known = [each for each in (_host_bytes(root), *_group_bytes(root)) if each is not None]
    return max(0, min(known)) if known else None


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
