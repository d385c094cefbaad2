"""The tier on disk: what a pool gave up or a restart lost is read back, and nothing else is."""

import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from prfaas.kvcache.block import Part
from prfaas.kvcache.block_pool import ComputeTime
from prfaas.kvcache.blocks import block_hashes
from prfaas.kvcache.layout import KVLayout, KVPiece, LayerKind, LayerRange, LayerSpec
from prfaas.kvcache.pinned_prefix import PinnedPrefix
from prfaas.kvcache.prefix_cache import PrefixCache
from prfaas.worker.disk_tier import block_file, tier, writer
from prfaas.worker.disk_tier.tier import DiskTier
from tests.budget import examples

FULL = LayerSpec(kind=LayerKind.FULL, kv_heads=1, head_dim=1)
DENSE = KVLayout(dtype="bfloat16", layers=(FULL,))
HYBRID = KVLayout(dtype="bfloat16", layers=(FULL, LayerSpec(kind=LayerKind.RECURRENT, state_bytes=1)))
KEY = b"k" * 32
BLOCK_BYTES = 100
FILE_BYTES = 400
"""More than a file of one block has."""


def piece(token_ids: Sequence[int], layer: int) -> Part:
    """Content that says which prefix it belongs to."""
    content = bytes([layer, *token_ids]).ljust(BLOCK_BYTES, b"\0")
    return Part.of([KVPiece(LayerRange(layer, 0, len(token_ids)), memoryview(content), memoryview(b""))])


class Worker:
    """A pool with a tier beneath it, and prompts in blocks of one token."""

    def __init__(
        self,
        directory: Path,
        *,
        memory_blocks: int = 100,
        disk_blocks: int = 100,
        spacing: int = 0,
        queue_bytes: int = 1 << 20,
        fingerprint: str = "model",
        compute_s: ComputeTime | None = None,
    ) -> None:
        self.layout = HYBRID if spacing else DENSE
        compute = compute_s or (lambda start, end: float(end - start))
        self.cache = PrefixCache(1, memory_blocks * BLOCK_BYTES, KEY, checkpoint_spacing=spacing, compute_s=compute)
        self.tier = self.cache.lower = DiskTier(
            directory,
            disk_blocks * FILE_BYTES,
            fingerprint,
            block_tokens=1,
            checkpoint_spacing=spacing,
            compute_s=compute,
            queue_bytes=queue_bytes,
        )
        self.held: set[int] = set()

    def serve(self, token_ids: Sequence[int]) -> int:
        """Prefills a prompt. Returns the tokens that were not computed, all of whose KV it checks."""
        with self.cache.pin(token_ids) as prefix:
            self.check(prefix, token_ids)
            for end in range(prefix.tokens + 1, len(token_ids) + 1):
                layers = {part.layer for part in prefix.kept_ranges(self.layout, end - 1, end)}
                block, checkpoint = (piece(token_ids[:end], layer) if layer in layers else None for layer in (0, 1))
                prefix.append(block, checkpoint)
        self.read_tokens = prefix.read_back.tokens
        self.hear()
        return prefix.cached_tokens

    def look(self, token_ids: Sequence[int]) -> int:
        """Returns the tokens that would not be computed."""
        with self.cache.pin(token_ids) as prefix:
            self.check(prefix, token_ids)
            return prefix.cached_tokens

    def check(self, prefix: PinnedPrefix, token_ids: Sequence[int]) -> None:
        loaded = {(each.range.layer, each.range.end): bytes(each.keys) for each in prefix.loaded()}
        expected = {(0, end): bytes(piece(token_ids[:end], 0).pieces[0].keys) for end in range(1, prefix.tokens + 1)}
        if self.cache.checkpoint_spacing and prefix.tokens:
            expected[1, prefix.tokens] = bytes(piece(token_ids[: prefix.tokens], 1).pieces[0].keys)
        assert loaded == expected

    def hear(self) -> None:
        """Takes what would be announced."""
        self.cache.validate()
        stored, removed = self.cache.take_changes()
        assert not self.held & set(stored) and self.held >= set(removed)
        self.held = self.held - set(removed) | set(stored)
        assert self.held == {hash for hash in self.held if self.cache.holds(hash)}

    def written(self) -> None:
        """Waits until the queue is empty."""
        done = threading.Event()
        self.tier._writer._jobs.put(Signal(done))  # type: ignore[arg-type]
        assert done.wait(60.0)
        self.hear()

    def close(self) -> None:
        self.tier.close(60.0)

    def files(self) -> list[Path]:
        return sorted(path for path in self.tier._folder.path.iterdir())


class Signal:
    """A deletion that says when its turn has come."""

    def __init__(self, done: threading.Event) -> None:
        self._done = done

    def unlink(self, *, missing_ok: bool) -> None:
        self._done.set()


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
    assert worker.held >= told
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


def test_a_full_disk_is_counted_and_no_prompt_fails(open_worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(writer, "write_block", full)
        worker = open_worker()
        worker.serve(range(10))
        worker.written()
        assert worker.tier.failed >= 10 and worker.tier.written_bytes == 0
    worker.serve(range(10))
    worker.written()
    assert open_worker().serve(range(10)) == 10


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
from tests.worker.disk_tier.test_tier import Worker
worker = Worker(Path({str(tmp_path / "kv")!r}), disk_blocks=30)
print("open", flush=True)
for prompt in range(1_000_000):
    worker.serve([prompt % 200, *range(9)])
"""
    for delay_s in (0.02, 0.05, 0.11):
        killed = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert killed.stdout is not None and killed.stdout.readline() == b"open\n"
        threading.Event().wait(delay_s)
        killed.send_signal(signal.SIGKILL)
        killed.wait(60.0)
        killed.stdout.close()
        worker = Worker(tmp_path / "kv", disk_blocks=30)
        found = [worker.look([prompt, *range(9)]) for prompt in range(200)]
        assert worker.tier.damaged == 0
        assert any(found), "something was written before it was killed"
        worker.close()


PROMPTS = st.lists(st.integers(1, 2), min_size=1, max_size=6)


class AnyOrder(RuleBasedStateMachine):
    """Prompts served in memory and on disk that hold a part of them, over restarts and damage: only right KV, always."""

    spacing = 0

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.worker = self.opened()

    def opened(self) -> Worker:
        return Worker(self.directory, memory_blocks=7, disk_blocks=6, spacing=self.spacing)

    @rule(token_ids=PROMPTS)
    def serve(self, token_ids: list[int]) -> None:
        self.worker.serve(token_ids)

    @rule()
    def write(self) -> None:
        self.worker.written()

    @rule()
    def restart(self) -> None:
        self.worker.close()
        self.worker = self.opened()

    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        self.worker.written()
        if files := self.worker.files():
            path = data.draw(st.sampled_from(files))
            path.write_bytes(path.read_bytes()[: data.draw(st.integers(0, 300))])

    @invariant()
    def holds(self) -> None:
        self.worker.hear()
        assert self.worker.cache.pinned == 0

    def teardown(self) -> None:
        self.worker.close()
        shutil.rmtree(self.directory)


class AnyOrderWithCheckpoints(AnyOrder):
    spacing = 2


SETTINGS = settings(max_examples=examples(50), stateful_step_count=30, deadline=None)
TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = SETTINGS
TestAnyOrderWithCheckpoints = AnyOrderWithCheckpoints.TestCase
TestAnyOrderWithCheckpoints.settings = SETTINGS
