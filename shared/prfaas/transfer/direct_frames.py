"""Frames of a small transfer in as few messages as hold them: each is preceded by its size, and none is cut."""

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from prfaas.bus.bulk.connection import Buffer
from prfaas.transfer.frame import FrameError, FrameKind, OutgoingFrame

SIZE_BYTES = 4
"""Bytes that a frame's size takes. A frame is cut so that it has this room in a message."""
_SIZE = struct.Struct("<I")
assert _SIZE.size == SIZE_BYTES


class DirectMessage(NamedTuple):
    buffers: list[Buffer]
    """Buffers to be written one after another, without a copy."""
    size_bytes: int
    kinds: list[FrameKind]


def pack_frames(frames: Iterable[OutgoingFrame], max_bytes: int) -> list[DirectMessage]:
    """Returns messages of at most `max_bytes`, in order. A frame that is larger by itself is alone in one."""
    messages: list[DirectMessage] = []
    buffers: list[Buffer] = []
    kinds: list[FrameKind] = []
    size_bytes = 0
    for frame in frames:
        frame_bytes = SIZE_BYTES + frame.total_bytes
        if buffers and size_bytes + frame_bytes > max_bytes:
            messages.append(DirectMessage(buffers, size_bytes, kinds))
            buffers, kinds, size_bytes = [], [], 0
        buffers += (_SIZE.pack(frame.total_bytes), *frame.buffers)
        kinds.append(frame.kind)
        size_bytes += frame_bytes
    if buffers:
        messages.append(DirectMessage(buffers, size_bytes, kinds))
    return messages


def unpack_frames(payload: memoryview) -> Iterator[memoryview]:
    """Yields views of the frames. Raises FrameError where the message does not end with a frame's end."""
    at = 0
    while at < len(payload):
        if len(payload) - at < SIZE_BYTES:
            raise FrameError(f"a message of {len(payload)} bytes ends within the size of a frame")
        (size_bytes,) = _SIZE.unpack_from(payload, at)
        at += SIZE_BYTES
        if size_bytes > len(payload) - at:
            raise FrameError(f"a message has {len(payload) - at} bytes left for a frame of {size_bytes}")
        yield payload[at : at + size_bytes]
        at += size_bytes
