"""Frames of one attempt that the other side does not hold yet, and their memory, which is free once stored and hashed."""

import threading
from collections import deque
from typing import Protocol

from prfaas.link.estimate import Sent
from prfaas.transfer.frame import OutgoingFrame


class FrameMemory(Protocol):
    """The framer as its queue sees it: told of every frame, it bounds the memory of frames."""

    def sent(self, size_bytes: int) -> None: ...

    def freed(self, frames: int) -> None: ...


class FrameQueue:
    """Belongs to the loop's thread, except for `on_hashed`. Positions are those of the transfer, from 0."""

    def __init__(self, memory: FrameMemory, *, hashing: bool) -> None:
        """`hashing`: a digest reads the frames too, and says by `on_hashed` which ones it is done with."""
        self._memory = memory
        self._hashing = hashing
        self._frames: deque[OutgoingFrame] = deque()
        """Frames from position `_stored` on."""
        self._marks: deque[Sent] = deque()
        """Marks of the frames on the way, in order."""
        self._stored = 0
        self._sent = 0
        """Frames that have left at least once."""
        # Shared with the digest's thread, under the lock.
        self._freeing = threading.Lock()
        self._hashed = 0
        self._freed = 0

    def append(self, frame: OutgoingFrame) -> None:
        self._frames.append(frame)

    def mark(self, sent: Sent) -> None:
        """Notes that the next frame leaves."""
        self._marks.append(sent)

    def send(self, position: int) -> OutgoingFrame:
        frame = self._frames[position - self._stored]
        if position == self._sent:
            self._sent += 1
            self._memory.sent(frame.total_bytes)
        return frame

    def rewind(self) -> None:
        """Gives up what is on the way."""
        self._marks.clear()

    def store(self, before: int) -> list[Sent]:
        """Drops the frames before this position. Returns the marks of those that were on the way."""
        arrived = []
        while self._stored < before:
            self._stored += 1
            self._frames.popleft()
            if self._marks:
                arrived.append(self._marks.popleft())
        self._free()
        return arrived

    def on_hashed(self, frames: int) -> None:
        """Called with the number of frames that are hashed, on the digest's thread where it has one."""
        self._hashed = frames
        self._free()

    def clear(self) -> None:
        self._frames.clear()
        self._marks.clear()

    def _free(self) -> None:
        with self._freeing:
            done = min(self._stored, self._hashed) if self._hashing else self._stored
            if done > self._freed:
                self._memory.freed(done - self._freed)
                self._freed = done
