"""A frame's memory is free once it is stored and hashed, whichever comes last; a frame counts as sent once."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from prfaas.link.estimate import Sent
from prfaas.transfer.frame import FrameKind, OutgoingFrame
from prfaas.transfer.frame_queue import FrameQueue

SIZE_BYTES = 100


class Counts:
    """A framer's part that the queue tells."""

    def __init__(self) -> None:
        self.freed_frames = 0
        self.sent_bytes = 0

    def freed(self, frames: int) -> None:
        assert frames > 0
        self.freed_frames += frames

    def sent(self, size_bytes: int) -> None:
        self.sent_bytes += size_bytes


def frame(position: int) -> OutgoingFrame:
    return OutgoingFrame(FrameKind.DATA, (), position.to_bytes(16, "little"), SIZE_BYTES, SIZE_BYTES)


def filled(frames: int, *, hashing: bool) -> tuple[FrameQueue, Counts]:
    counts = Counts()
    queue = FrameQueue(counts, hashing=hashing)
    for position in range(frames):
        queue.append(frame(position))
    return queue, counts


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3))), st.booleans())
def test_what_is_stored_and_hashed_is_freed_once(steps: list[tuple[bool, int]], hashing: bool) -> None:
    queue, counts = filled(100, hashing=hashing)
    stored = hashed = 0
    for of_store, count in steps:
        if of_store:
            stored = min(stored + count, 100)
            queue.store(stored)
        elif hashing:
            hashed = min(hashed + count, 100)
            queue.on_hashed(hashed)
        assert counts.freed_frames == (min(stored, hashed) if hashing else stored)


def test_frames_are_found_by_position_and_a_resent_one_counts_once() -> None:
    queue, counts = filled(5, hashing=False)
    assert [queue.send(position).digest[0] for position in range(4)] == [0, 1, 2, 3]
    assert queue.store(2) == []
    assert queue.send(2).digest[0] == 2 and queue.send(3).digest[0] == 3
    assert counts.sent_bytes == 4 * SIZE_BYTES
    queue.send(4)
    assert counts.sent_bytes == 5 * SIZE_BYTES


def test_marks_come_back_in_order_and_a_rewind_drops_them() -> None:
    queue, _ = filled(5, hashing=False)
    marks = [Sent(SIZE_BYTES, at, 0, 0.0) for at in (1.0, 2.0, 3.0)]
    for mark in marks:
        queue.mark(mark)
    assert queue.store(2) == marks[:2]
    queue.rewind()
    assert queue.store(3) == []


def test_what_is_stored_is_gone() -> None:
    queue, _ = filled(2, hashing=False)
    queue.store(2)
    with pytest.raises(IndexError):
        queue.send(2)
