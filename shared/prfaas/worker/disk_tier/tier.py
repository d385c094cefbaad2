"""The second tier of a prefix cache: blocks of served prompts as files, read back when that is sooner done than computing them.

What is there, what goes first and how blocks hang together is a pool's business here as in memory: its units are files, without
their content. Reading is done on the caller's thread, the engine's; writing and deleting in the background.
"""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from prfaas.kvcache.block import Block, Checkpoint, Part
from prfaas.kvcache.block_pool import BlockPool, ComputeTime
from prfaas.telemetry.logs import get_logger
from prfaas.worker.disk_tier.block_file import DamagedFileError, encode_head, read_block, size_of
from prfaas.worker.disk_tier.folder import DiskTierError, FileName, FoundFile, TierFolder
from prfaas.worker.disk_tier.read_speed import ReadSpeed
from prfaas.worker.disk_tier.writer import TierWriter, Write

QUEUE_BYTES = 256 << 20

_log = get_logger(__name__)


class DiskTier:
    """See prfaas.kvcache.lower_tier.LowerTier."""

    def __init__(
        self,
        directory: Path,
        capacity_bytes: int,
        fingerprint: str,
        *,
        block_tokens: int,
        checkpoint_spacing: int,
        compute_s: ComputeTime,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        """Takes the directory with what an earlier process has left there. Raises DiskTierError."""
        self._fingerprint = fingerprint
        self._folder = TierFolder(directory, fingerprint)
        self._index = BlockPool(
            block_tokens, capacity_bytes, checkpoint_spacing=checkpoint_spacing, compute_s=compute_s, evicted=self._evicted
        )
        self._readable: set[FileName] = set()
        self._writing: dict[FileName, int] = {}
        """Names of files under way -> numbers of their writes."""
        self._written: dict[int, FileName] = {}
        self._writes = 0
        self._touched: dict[int, None] = {}
        self._pays = True
        self.speed = ReadSpeed()
        self.reads = self.damaged = self.dropped = self.failed = 0
        """Counts of files: read, found damaged, not written for want of room in the queue, and not written for an error."""
        self.written_bytes = 0
        self._writer = TierWriter(queue_bytes)
        try:
            self._take_over()
        except OSError as error:
            self.close(0.0)
            raise DiskTierError(f"what lies in the directory {directory} of the prefix cache cannot be read: {error}") from error

    @property
    def size_bytes(self) -> int:
        return self._index.size_bytes

    @property
    def capacity_bytes(self) -> int:
        return self._index.capacity_bytes

    @property
    def evicted_bytes(self) -> int:
        return self._index.evicted_bytes

    def close(self, timeout_s: float) -> None:
        """Lets go of the directory. What is not written within the time is not."""
        self._writer.close(timeout_s)
        self._folder.close()

    # What the pool calls.

    def holds(self, hash: int) -> bool:
        needs_checkpoint = self._index.checkpoint_spacing > 0
        return (
            self._pays
            and self.readable_bytes(hash, checkpoint=False) > 0
            and (not needs_checkpoint or self.readable_bytes(hash, checkpoint=True) > 0)
        )

    def readable_bytes(self, hash: int, *, checkpoint: bool) -> int:
        block = self._index.block(hash)
        unit = block.checkpoint if block is not None and checkpoint else block
        return unit.size_bytes if block is not None and unit is not None and _name(block, checkpoint) in self._readable else 0

    def read_s(self, size_bytes: int) -> float:
        return self.speed.seconds(size_bytes)

    def read(self, hash: int, proof: bytes, *, checkpoint: bool) -> Part | None:
        block = self._index.block(hash)
        if block is None or (name := _name(block, checkpoint)) not in self._readable:
            return None
        path = self._folder.file(name)
        started_s = time.perf_counter()
        try:
            part = read_block(path, self._fingerprint, hash, proof, checkpoint=checkpoint)
        except (OSError, DamagedFileError) as error:
            # Its place in the index stays, for those behind it; it is written again when it is computed again.
            _log.warning("prefix_block_damaged", error=str(error))
            self.damaged += 1
            self._readable.discard(name)
            self._touched[hash] = None
            self._writer.delete(path)
            return None
        self.speed.observe(part.size_bytes, time.perf_counter() - started_s)
        self.reads += 1
        return part

    def keep(self, chain: Sequence[Block], proofs: Sequence[bytes]) -> None:
        self._settle()
        kept: list[Block] = []
        for block, proof in zip(chain, proofs, strict=False):
            entry = self._entry(block, kept[-1] if kept else None, proof)
            if entry is None:
                break
            kept.append(entry)
            if not self._ensure_written(_name(entry, checkpoint=False), Part(block.pieces, block.size_bytes), proof):
                break
            if block.checkpoint is not None and block.checkpoint.seconds:  # spares are for room in memory only
                self._keep_checkpoint(entry, block.checkpoint, proof)
        self._index.release(kept)

    def take_touched(self) -> Iterable[int]:
        self._settle()
        touched, self._touched = self._touched, {}
        return touched

    def validate(self) -> None:
        self._index.validate()
        names = {_name(block, False) for block in self._index.blocks()}
        names |= {_name(block, True) for block in self._index.blocks() if block.checkpoint is not None}
        assert self._readable <= names and self._writing.keys() <= names
        assert not self._readable & self._writing.keys()
        assert {number: name for name, number in self._writing.items()}.items() <= self._written.items()
        assert 0 <= self._writer.waiting_bytes <= self._writer.queue_bytes

    # Inside.

    def _entry(self, block: Block, parent: Block | None, proof: bytes) -> Block | None:
        """Returns the block's place in the index, pinned; None without room for it."""
        found = self._index.find(block.hash, parent, b"")
        if found is not None:
            self._index.pin_block(found)
            return found
        part = Part(block.pieces, block.size_bytes)
        size_bytes = size_of(encode_head(self._fingerprint, block.hash, proof, part, checkpoint=False), part)
        if not self._writer.has_room(size_bytes):
            self.dropped += 1
            return None
        return self._index.store(block.hash, parent, b"", Part((), size_bytes), "")

    def _keep_checkpoint(self, entry: Block, checkpoint: Checkpoint, proof: bytes) -> None:
        part = Part(checkpoint.pieces, checkpoint.size_bytes)
        if entry.checkpoint is None:
            size_bytes = size_of(encode_head(self._fingerprint, entry.hash, proof, part, checkpoint=True), part)
            if not self._writer.has_room(size_bytes):
                self.dropped += 1
                return
            if not self._index.store_checkpoint(entry, Part((), size_bytes)):
                return
        self._ensure_written(_name(entry, checkpoint=True), part, proof)

    def _ensure_written(self, name: FileName, part: Part, proof: bytes) -> bool:
        """Returns False when the file is neither there nor under way."""
        if name in self._readable or name in self._writing:
            return True
        head = encode_head(self._fingerprint, name.hash, proof, part, checkpoint=name.checkpoint)
        size_bytes = size_of(head, part)
        if not self._writer.has_room(size_bytes):
            self.dropped += 1
            return False
        self._writes += 1
        self._writing[name] = self._writes
        self._written[self._writes] = name
        self._writer.write(Write(self._writes, self._folder.file(name), head, part, size_bytes))
        return True

    def _settle(self) -> None:
        """Takes what the writer has done."""
        self._index.take_changes()  # nobody else asks the index, which would remember them all
        for ended in self._writer.take_written():
            name = self._written.pop(ended.number)
            if self._writing.get(name) != ended.number:  # evicted since
                continue
            del self._writing[name]
            if ended.failed:
                self.failed += 1
                continue
            self.written_bytes += ended.size_bytes
            self._readable.add(name)
            self._touched[name.hash] = None
        self._weigh()

    def _weigh(self) -> None:
        """Finds whether reading pays at all on this machine: else nothing here counts as held."""
        # Half or twice the limit, so that it does not change with every figure.
        pays = self.speed.seconds(1) <= (2.0 if self._pays else 0.5) * self._index.seconds_per_byte
        if pays != self._pays:
            self._pays = pays
            self._touched.update(dict.fromkeys(name.hash for name in self._readable))

    def _evicted(self, unit: Block | Checkpoint) -> None:
        block = unit.block if isinstance(unit, Checkpoint) else unit
        name = _name(block, isinstance(unit, Checkpoint))
        self._writing.pop(name, None)
        self._readable.discard(name)
        self._touched[block.hash] = None
        self._writer.delete(self._folder.file(name))

    def _take_over(self) -> None:
        """Indexes what is there, beginnings first. What hangs on nothing, or has no room, is deleted."""
        found = sorted(self._folder.files(), key=lambda file: (file.name.number, file.name.checkpoint, -file.written_s))
        kept: list[tuple[float, Block]] = []
        for file in found:
            block = self._take_over_file(file)
            if block is None:
                self._writer.delete(self._folder.file(file.name))
                continue
            self._readable.add(file.name)
            self._touched[file.name.hash] = None
            if not file.name.checkpoint:
                kept.append((file.written_s, block))
        # The last written are used last, and of a chain the deepest first.
        for _, block in sorted(kept, key=lambda each: (each[0], -each[1].number)):
            self._index.release([block])

    def _take_over_file(self, file: FoundFile) -> Block | None:
        name, part = file.name, Part((), file.size_bytes)
        if name.checkpoint:
            block = self._index.block(name.hash)
            if block is None or _name(block, True) != name or not self._index.checkpoint_spacing:
                return None
            return block if self._index.store_checkpoint(block, part) else None
        parent = None if name.parent is None else self._index.block(name.parent)
        if (parent is None) != (name.parent is None) or (parent is not None and parent.number + 1 != name.number):
            return None
        return self._index.store(name.hash, parent, b"", part, "")


def _name(block: Block, checkpoint: bool) -> FileName:
    return FileName(block.hash, None if block.parent is None else block.parent.hash, block.number, checkpoint)
