"""Writes and deletes the tier's files on a thread of its own, in the order in which they were asked for."""

import queue
import threading
from collections import deque
from pathlib import Path
from typing import NamedTuple

from prfaas.kvcache.block import Part
from prfaas.telemetry.logs import get_logger
from prfaas.worker.disk_tier.block_file import write_block

_log = get_logger(__name__)


class Write(NamedTuple):
    number: int
    """Names the write to who asked for it."""
    path: Path
    head: bytes
    part: Part
    size_bytes: int


class Written(NamedTuple):
    """End of a write."""

    number: int
    size_bytes: int
    failed: bool


class TierWriter:
    def __init__(self, queue_bytes: int) -> None:
        """`queue_bytes`: KV that may wait to be written, and is held in memory meanwhile."""
        self.queue_bytes = queue_bytes
        self.waiting_bytes = 0
        """KV that waits. Grows on the asking thread; shrinks there too, by `take_written`."""
        self._jobs: queue.SimpleQueue[Write | Path | None] = queue.SimpleQueue()
        self._written: deque[Written] = deque()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="disk tier", daemon=True)
        self._thread.start()

    def has_room(self, size_bytes: int) -> bool:
        return self.waiting_bytes + size_bytes <= self.queue_bytes

    def write(self, write: Write) -> None:
        assert self.has_room(write.size_bytes), "a write that was asked for without room"
        self.waiting_bytes += write.size_bytes
        self._jobs.put(write)

    def delete(self, path: Path) -> None:
        self._jobs.put(path)

    def take_written(self) -> list[Written]:
        """Returns the writes that have ended since the last call."""
        ended = []
        while self._written:
            ended.append(self._written.popleft())
            self.waiting_bytes -= ended[-1].size_bytes
        return ended

    def close(self, timeout_s: float) -> None:
        """Writes what waits, as far as it goes within the time; a file under way then is finished."""
        self._jobs.put(None)
        self._thread.join(timeout_s)
        self._stopped = True
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None and not self._stopped:
            if isinstance(job, Write):
                self._written.append(Written(job.number, job.size_bytes, failed=not self._write(job)))
            else:
                self._delete(job)

    def _write(self, write: Write) -> bool:
        try:
            write_block(write.path, write.head, write.part)
        except Exception as error:  # a full disk above all; whatever it is, the block is computed again, and the thread goes on
            _log.warning("prefix_block_not_written", path=str(write.path), error=str(error) or repr(error))
            return False
        return True

    def _delete(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("prefix_block_not_deleted", path=str(path), error=str(error))
