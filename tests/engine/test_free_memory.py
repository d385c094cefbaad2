"""Memory that a process may still take, as files of the kernel say it."""

from pathlib import Path

from prfaas.engine.free_memory import READING_HOLDS_S, FreeMemory, free_bytes

MIB = 1 << 20


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


HOST = {"proc/meminfo": f"MemTotal: 9999999 kB\nMemAvailable: {100 * 1024} kB\n"}
GROUP = HOST | {
    "proc/self/cgroup": "0::/a/b\n",
    "sys/fs/cgroup/a/b/memory.max": "max\n",
    "sys/fs/cgroup/a/b/memory.current": "1\n",
    "sys/fs/cgroup/a/memory.max": f"{50 * MIB}\n",
    "sys/fs/cgroup/a/memory.current": f"{30 * MIB}\n",
    "sys/fs/cgroup/a/memory.stat": f"anon 5\ninactive_file {4 * MIB}\n",
}


def test_without_groups_it_is_what_the_host_has_available(tmp_path: Path) -> None:
    assert free_bytes(written(tmp_path, HOST)) == 100 * MIB


def test_an_outer_groups_limit_counts_and_pages_of_files_are_free(tmp_path: Path) -> None:
    assert free_bytes(written(tmp_path, GROUP)) == 24 * MIB


def test_a_group_over_its_limit_leaves_nothing(tmp_path: Path) -> None:
    over = GROUP | {"sys/fs/cgroup/a/memory.current": f"{90 * MIB}\n"}
    assert free_bytes(written(tmp_path, over)) == 0


def test_nothing_is_known_on_a_host_without_these_files(tmp_path: Path) -> None:
    assert free_bytes(tmp_path) is None


def test_this_host_says_something() -> None:
    assert (free_bytes() or 0) > 0


def test_a_reading_is_held_while_what_is_wanted_is_a_small_part_of_it() -> None:
    readings = iter([100 * MIB, 90 * MIB, 80 * MIB])
    memory = FreeMemory(lambda: next(readings))
    assert memory.for_bytes(20 * MIB, 1.0) == 100 * MIB
    assert memory.for_bytes(20 * MIB, 1.1) == 80 * MIB, "what was asked for counts as taken"
    assert memory.for_bytes(20 * MIB, 1.2) == 90 * MIB, "more than a part of what is left: read again"
    assert memory.for_bytes(1 * MIB, 1.2 + READING_HOLDS_S) == 80 * MIB, "an old reading says nothing"


def test_where_nothing_is_known_nothing_is_read_anew_for_each_prefill() -> None:
    readings = iter([None, 5 * MIB])
    memory = FreeMemory(lambda: next(readings))
    assert [memory.for_bytes(9 * MIB, 1.0), memory.for_bytes(9 * MIB, 1.1)] == [None, None]
