import asyncio
import hashlib
import threading

import pytest

from prfaas.transfer.frame import FrameKind, OutgoingFrame
from prfaas.transfer.object_digest import AT_ONCE_BYTES, ObjectDigest


def frame(data: bytes) -> OutgoingFrame:
    halves = memoryview(data)[: len(data) // 2], memoryview(data)[len(data) // 2 :]
    return OutgoingFrame(FrameKind.DATA, halves, bytes(16), len(data), len(data))


@pytest.mark.parametrize("last_bytes", [0, 1, AT_ONCE_BYTES])
async def test_a_digest_is_over_all_frames_on_whichever_thread_each_is_hashed(last_bytes: int) -> None:
    hashed: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def on_hashed(frames: int) -> None:
        loop.call_soon_threadsafe(hashed.put_nowait, (frames, threading.current_thread().name))

    digest = ObjectDigest(on_hashed)
    parts = [bytes([1]) * (AT_ONCE_BYTES // 2), bytes([2]) * (AT_ONCE_BYTES // 2), bytes([3]) * last_bytes, b"end"]
    for part in parts:
        digest.update(frame(part))
    assert await digest.result() == hashlib.sha256(b"".join(parts)).digest()
    async with asyncio.timeout(60):
        told = [await hashed.get() for _ in parts]
    assert [frames for frames, _ in told] == [1, 2, 3, 4]
    here = threading.current_thread().name
    assert [name == here for _, name in told] == [True, True, last_bytes == 0, False]


async def test_a_small_object_has_no_thread() -> None:
    before = threading.active_count()
    digest = ObjectDigest(lambda frames: None)
    digest.update(frame(b"small"))
    assert threading.active_count() == before
    assert await digest.result() == hashlib.sha256(b"small").digest()
