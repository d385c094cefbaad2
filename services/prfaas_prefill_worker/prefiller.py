"""Runs prefills on the engine's thread, from what the prefix cache has of their prompts."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import NamedTuple, Protocol

from prfaas.engine.protocol import Engine
from prfaas.kvcache.layout import KVPiece
from prfaas.kvcache.prefix_cache import Changes, PrefixCache
from prfaas.telemetry.wall_clock import unix_s
from prfaas_prefill_worker.chunk_marks import ChunkMarks
from prfaas_prefill_worker.events import Run


class KVSink(Protocol):
    """Receiver of one prefill's pieces."""

    def put(self, piece: KVPiece) -> None: ...

    def finish(self, *, cached_tokens: int) -> None: ...


class Prefilled(NamedTuple):
    cached_tokens: int
    ended_unix_s: float
    """Moment at which the last layer was computed."""
    chunks: tuple[tuple[float, float], ...] = ()
    """(seconds since the prefill's start, prompt tokens computed by then)."""


class Prefiller:
    def __init__(
        self, engine: Engine, thread: Executor, prefix_cache: PrefixCache, cache_changed: Callable[[Changes], None]
    ) -> None:
        """`prefix_cache` belongs to the engine's thread from now on; `cache_changed` is called on the loop's."""
        self.description = engine.describe()
        self._engine = engine
        self._thread = thread
        self._prefix_cache = prefix_cache
        self._cache_changed = cache_changed

    async def warm_up(self) -> tuple[int, float]:
        """Prefills one chunk twice, which is thrown away: the first request must not pay for cold memory, nor a scheduler plan
        without a figure. Returns tokens and seconds of the second one."""
        tokens = min(self.description.chunk_tokens, self.description.max_context_tokens)
        started_at = 0.0
        for _ in range(2):
            started_at = time.monotonic()
            await asyncio.get_running_loop().run_in_executor(
                self._thread, self._engine.prefill, [0] * tokens, lambda piece: None, lambda: False
            )
        return tokens, time.monotonic() - started_at

    async def prefill(self, run: Run, sink: KVSink, cancelled: Callable[[], bool]) -> Prefilled:
        """`sink` and `cancelled` are called on the engine's thread. Raises PrefillCancelled, EngineError, what `sink` raised."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._prefill, loop, run, sink, cancelled)

    def _prefill(self, loop: asyncio.AbstractEventLoop, run: Run, sink: KVSink, cancelled: Callable[[], bool]) -> Prefilled:
        chunks = ChunkMarks(time.monotonic())

        def put(piece: KVPiece) -> None:
            chunks.piece(piece.range.end, time.monotonic())
            sink.put(piece)

        try:
            with self._prefix_cache.pin(run.token_ids) as prefix:
                from_token = run.job.transfer.from_token
                self._engine.prefill(run.token_ids, put, cancelled, prefix=prefix, from_token=from_token)
                ended_unix_s = unix_s()
                # Here and not on the loop: the manifest leaves in one write with the last frames.
                sink.finish(cached_tokens=prefix.cached_tokens)
                return Prefilled(prefix.cached_tokens, ended_unix_s, chunks.marks())
        finally:
            loop.call_soon_threadsafe(self._cache_changed, self._prefix_cache.take_changes())
