"""The tier on disk: what a pool gave up or a restart lost is read back, and nothing else is."""

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prfaas.kvcache.blocks import block_hashes
from prfaas.worker.disk_tier import block_file, tier, writer
from prfaas.worker.disk_tier.folder import DiskTierError, TierFolder
from tests.worker.disk_tier.tier_at_hand import BLOCK_BYTES, FILE_BYTES, KEY, Worker


@pytest.fixture(params=[0, 4], ids=["every block", "checkpoints"])
def spacing(request: Any) -> int:
    found: int = request.param
    return found


@pytest.fixture
def open_worker(tmp_path: Path, spacing: int) -> Iterator[Any]:
    workers: list[Worker] = []

    def opened(**options: Any) -> Worker:
        for each in workers:
            each.close()
        workers[:] = [Worker(tmp_path / "kv", spacing=spacing, **options)]
        return workers[0]

    yield opened
    for each in workers:
        each.close()


def test_what_was_served_before_a_restart_is_read_and_not_computed(open_worker: Any) -> None:
    before = open_worker()
    assert before.serve(range(20)) == 0
    before.written()
    after = open_worker()
    after.hear()
    assert block_hashes(range(20), 1, KEY)[19] in after.held, "announced before it is asked for"
    assert (after.serve(range(20)), after.read_tokens) == (20, 20)
    assert (after.serve(range(20)), after.read_tokens) == (20, 0), "it is in memory now"


def test_what_memory_gave_up_is_read_and_stays_announced(open_worker: Any) -> None:
    worker = open_worker(memory_blocks=14)
    worker.serve(range(10))
    worker.written()
    told = {hash for hash in worker.held if worker.tier.holds(hash)}
    assert told
    worker.serve(range(100, 110))
    worker.written()
    assert worker.held.keys() >= told
    assert worker.serve([*range(10), 50]) == 10
    assert worker.read_tokens > 0


def test_hits_around_every_boundary_are_of_the_right_tokens(open_worker: Any, spacing: int) -> None:
    worker = open_worker()
    worker.serve(range(12))
    worker.written()
    for shared in range(13):
        worker = open_worker()
        tokens = worker.serve([*range(shared), 99])
        places = {0, 4, 8, 12} if spacing else set(range(13))
        assert tokens == max(place for place in places if place <= shared)


@pytest.mark.parametrize("damage", ["turn", "cut", "empty", "gone", "another's"])
def test_a_damaged_file_is_a_miss_counted_and_written_again(open_worker: Any, damage: str) -> None:
    before = open_worker()
    before.serve(range(8))
    before.serve(range(50, 58))
    before.written()
    worker = open_worker()
    names = {path.name: path for path in worker.files()}
    hashes, others = block_hashes(range(8), 1, KEY), block_hashes(range(50, 58), 1, KEY)
    (path,) = (path for name, path in names.items() if name.startswith(f"{hashes[2]:016x}"))
    (other,) = (path for name, path in names.items() if name.startswith(f"{others[2]:016x}"))
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    match damage:
        case "turn":
            path.write_bytes(content)
        case "cut":
            path.write_bytes(content[:-7])
        case "empty":
            path.write_bytes(b"")
        case "gone":
            path.unlink()
        case _:
            shutil.copy(other, path)
    found = worker.serve(range(8))
    assert found == (0 if worker.cache.checkpoint_spacing else 2)
    assert worker.tier.damaged == 1
    worker.written()
    again = open_worker()
    assert (again.serve(range(8)), again.tier.damaged) == (8, 0)


def test_files_of_another_model_are_never_read(open_worker: Any) -> None:
    before = open_worker()
    before.serve(range(8))
    before.written()
    assert open_worker(fingerprint="another model").serve(range(8)) == 0


def test_it_stays_within_its_bytes(open_worker: Any) -> None:
    worker = open_worker(memory_blocks=30, disk_blocks=20)
    for prompt in range(8):
        worker.serve(range(10 * prompt, 10 * prompt + 10))
        worker.written()
        assert sum(path.stat().st_size for path in worker.files()) == worker.tier.size_bytes <= worker.tier.capacity_bytes
    assert worker.tier.evicted_bytes > 0
    small = open_worker(memory_blocks=30, disk_blocks=5)
    small.written()
    assert sum(path.stat().st_size for path in small.files()) == small.tier.size_bytes <= small.tier.capacity_bytes


def test_what_the_queue_has_no_room_for_is_not_written_and_a_request_never_waits(
    open_worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = threading.Event()
    write_block = block_file.write_block
    monkeypatch.setattr(writer, "write_block", lambda *each: (disk.wait(60.0), write_block(*each)))
    worker = open_worker(queue_bytes=3 * FILE_BYTES)
    for prompt in range(5):
        worker.serve(range(10 * prompt, 10 * prompt + 10))  # while the disk stands still
    assert worker.tier.dropped >= 4
    assert worker.tier._writer.waiting_bytes <= 3 * FILE_BYTES
    disk.set()
    worker.written()
    for _ in range(12):  # another use writes more of it
        worker.serve(range(10))
        worker.written()
    assert open_worker().serve(range(10)) == 10


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError(), RuntimeError("unforeseen")], ids=repr)
def test_a_write_that_fails_is_counted_and_neither_a_prompt_nor_the_thread_ends_by_it(
    open_worker: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(writer, "write_block", full)
        worker = open_worker()
        worker.serve(range(10))
        worker.written()
        assert worker.tier.failed >= 10 and worker.tier.written_bytes == 0
    worker.serve(range(10))
    worker.written()
    assert open_worker().serve(range(10)) == 10


def test_a_directory_that_cannot_be_read_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_: TierFolder) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(TierFolder, "files", forbidden)
        with pytest.raises(DiskTierError, match=f"what lies in the directory {tmp_path} .* cannot be read"):
            Worker(tmp_path)
    Worker(tmp_path).close()  # which is free again


def test_a_prompt_that_cannot_be_read_back_leaves_nothing_in_use(open_worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    before = open_worker()
    before.serve(range(8))
    before.written()
    worker = open_worker()
    with monkeypatch.context() as patched:
        patched.setattr(tier, "read_block", no_memory)
        with pytest.raises(MemoryError):
            worker.serve(range(8))
    with monkeypatch.context() as patched:
        patched.setattr(worker.tier, "keep", no_memory)
        with pytest.raises(MemoryError):
            worker.serve(range(8))
    assert worker.cache.pinned == 0
    assert worker.serve(range(8)) == 8


def test_nothing_is_read_that_is_sooner_computed(open_worker: Any) -> None:
    before = open_worker()
    before.serve(range(8))
    before.written()
    slow = open_worker(compute_s=lambda start, end: (end - start) * 1e-6)
    slow.tier.speed.observe(1, 1.0)
    assert slow.serve(range(8)) == 0
    assert slow.tier.reads == 0
    slow.cache.take_changes()
    fresh = open_worker(compute_s=lambda start, end: (end - start) * 1e-6)
    fresh.tier.speed.observe(1, 1.0)
    fresh.hear()
    assert not fresh.held, "what is of no use is not announced"


def test_only_what_reads_sooner_than_it_computes_is_read(open_worker: Any) -> None:
    """The end of a prompt is dear to compute: reading its cheap beginning pays for that."""
    before = open_worker()
    before.serve(range(40))
    before.written()

    def compute_s(start: int, end: int) -> float:
        return float(sum(0.1 * token for token in range(start, end)))

    worker = open_worker(compute_s=compute_s)
    worker.tier.speed.observe(BLOCK_BYTES, 1.0)
    assert worker.serve(range(15)) == 0, "13 s to read, 10 s to compute"
    assert worker.serve(range(40)) == 40


def test_names_and_content_tell_nothing_of_the_tokens_without_the_key(open_worker: Any) -> None:
    worker = open_worker()
    worker.serve(range(100, 116))
    worker.written()
    unkeyed = block_hashes(range(100, 116), 1)
    for path in worker.files():
        content = path.read_bytes()
        head = content[: 12 + int.from_bytes(content[8:12], "little")]  # the rest is KV
        assert not any(f"{hash:016x}" in path.name for hash in unkeyed)
        assert path.name[:16] in {f"{hash:016x}" for hash in block_hashes(range(100, 116), 1, KEY)}
        assert bytes(range(100, 104)) not in head


def test_a_process_killed_at_any_moment_leaves_a_tier_that_can_be_read(tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path.cwd())!r})
from tests.worker.disk_tier.tier_at_hand import Worker
worker = Worker(Path({str(tmp_path / "kv")!r}), disk_blocks=30)
print("open", flush=True)
for prompt in range(1_000_000):
    worker.serve([prompt % 200, *range(9)])
"""
    for delay_s in (0.02, 0.05, 0.11):
        killed = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert killed.stdout is not None and killed.stdout.readline() == b"open\n"
        until_at = time.monotonic() + 60.0
        while sum(path.is_file() for path in (tmp_path / "kv").rglob("*")) < 10 and time.monotonic() < until_at:
            threading.Event().wait(0.001)
        threading.Event().wait(delay_s)
        killed.send_signal(signal.SIGKILL)
        killed.wait(60.0)
        killed.stdout.close()
        worker = Worker(tmp_path / "kv", disk_blocks=30)
        found = [worker.look([prompt, *range(9)]) for prompt in range(200)]
        assert worker.tier.damaged == 0
        assert any(found), "something was written before it was killed"
        worker.close()
