"""Memory that the process has freed and its allocator keeps.

KV blocks of a prefix cache are large, long-lived and freed in any order, on several threads. glibc keeps such memory: a worker
whose cache of 512 MiB was full had 90 to 120 MiB more than it used. Given back, it has 5 to 15 MiB more.
"""

import asyncio
import ctypes
from typing import Final

EVERY_S: Final = 10.0
"""Interval. One call takes 2 to 8 ms at 700 MiB, on a thread of its own; who allocates waits for it."""


async def give_back_freed_memory(every_s: float = EVERY_S) -> None:
    """Gives free pages back to the kernel until cancelled. Returns at once where the C library cannot do so."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return
    while True:
        await asyncio.sleep(every_s)
        await asyncio.to_thread(trim, 0)
