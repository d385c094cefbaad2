import asyncio
import ctypes
import random

import psutil
import pytest

from prfaas.worker.freed_memory import give_back_freed_memory

BLOCK_BYTES, BLOCKS = 60_000, 2000
"""Sizes below glibc's threshold for memory that it maps, and so returns, block by block."""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library keeps what it keeps")
async def test_memory_of_freed_blocks_goes_back_though_others_lie_between() -> None:
    process = psutil.Process()
    blocks = [bytearray(random.randbytes(BLOCK_BYTES)) for _ in range(BLOCKS)]
    full_bytes = process.memory_info().rss
    del blocks[::2]
    kept = asyncio.create_task(give_back_freed_memory(every_s=0.01))
    try:
        async with asyncio.timeout(60.0):
            while process.memory_info().rss > full_bytes - BLOCK_BYTES * BLOCKS // 3:
                await asyncio.sleep(0.02)
    finally:
        kept.cancel()
    assert len(blocks) == BLOCKS // 2
