"""SHA-256 over all frames and the meta message: with them any object-store client can read the object."""

import asyncio
import base64
import contextlib
import hashlib
import json
import queue
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from prfaas.bus.bulk.bucket import chunk_subject, meta_subject
from prfaas.bus.bulk.lane import BulkLane
from prfaas.bus.bulk.wire import LaneError
from prfaas.contracts.kv import KVTransfer
from prfaas.contracts.wire import BadMessageError, decode_json
from prfaas.transfer.frame import OutgoingFrame

AT_ONCE_BYTES = 128 << 10
"""Bytes of an object that are hashed where they are sent, about 0.1 ms."""
_ATTEMPTS = 3
_PAUSE_S = 0.2
_TIMEOUT_S = 2.0


class ObjectDigest:
    """Hashes a small object at once, and from there on a thread, for the hash releases the GIL: engine and link do not wait."""

    def __init__(self, on_hashed: Callable[[int], None]) -> None:
        """`on_hashed` is called with the number of frames that are hashed, hence free; on the thread where there is one."""
        self._queue: queue.SimpleQueue[OutgoingFrame | None] = queue.SimpleQueue()
        self._sha = hashlib.sha256()
        self._on_hashed = on_hashed
        self._hashed_frames = 0
        self._at_once_bytes = 0
        self._stopped = False
        self._thread: threading.Thread | None = None

    def update(self, frame: OutgoingFrame) -> None:
        if self._thread is None:
            # A thread takes longer to start and to end than a short prompt's frames to be hashed.
            self._at_once_bytes += frame.total_bytes
            if self._at_once_bytes <= AT_ONCE_BYTES:
                return self._hash(frame)
            self._thread = threading.Thread(target=self._run, name="kv object digest", daemon=True)
            self._thread.start()
        self._queue.put(frame)

    def stop(self) -> None:
        self._stopped = True
        self._queue.put(None)

    async def result(self) -> bytes:
        """Returns SHA-256 over all frames so far; none may follow."""
        if self._thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)
        return self._sha.digest()

    def _run(self) -> None:
        while (frame := self._queue.get()) is not None and not self._stopped:
            self._hash(frame)

    def _hash(self, frame: OutgoingFrame) -> None:
        for buffer in frame.buffers:
            self._sha.update(buffer)
        self._hashed_frames += 1
        self._on_hashed(self._hashed_frames)


async def publish_meta(
    lane: BulkLane, transfer: KVTransfer, *, size_bytes: int, chunks: int, sha256: bytes, last_sequence: int
) -> bool:
    """Returns whether the object is complete now. The server refuses when its last frame is not at `last_sequence` any more:
    then the receiver has verified and deleted it, and a meta message would be litter."""
    meta = {
        "name": transfer.object_name,
        "bucket": transfer.bucket,
        "nuid": transfer.nuid,
        "size": size_bytes,
        "chunks": chunks,
        "mtime": datetime.now(UTC).isoformat(),
        "digest": f"SHA-256={base64.urlsafe_b64encode(sha256).decode()}",
    }
    headers = {
        "Nats-Rollup": "sub",
        "Nats-Expected-Last-Subject-Sequence": str(last_sequence),
        "Nats-Expected-Last-Subject-Sequence-Subject": chunk_subject(transfer.bucket, transfer.nuid),
    }
    subject = meta_subject(transfer.bucket, transfer.object_name)
    for _ in range(_ATTEMPTS):
        try:
            answer = await lane.request(subject, json.dumps(meta).encode(), timeout_s=_TIMEOUT_S, headers=headers)
        except (LaneError, TimeoutError):
            await asyncio.sleep(_PAUSE_S)
            continue
        if answer.status == 0:
            with contextlib.suppress(BadMessageError):
                return "error" not in decode_json(answer.payload, dict[str, Any])
            return False
    return False
