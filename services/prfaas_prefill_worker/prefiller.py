"""Runs prefills on the engine's thread, from what the prefix cache has of their prompts."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import NamedTuple, Protocol

from prfaas.engine.protocol import Engine
from prfaas.kvcache.block_pool import Changes
from prfaas.kvcache.compute_speed import ComputeSpeed
from prfaas.kvcache.layout import KVPiece
from prfaas.kvcache.prefix_cache import PrefixCache
from prfaas.kvcache.read_back import ReadBack
from prfaas.telemetry.wall_clock import unix_s
from prfaas_prefill_worker.chunk_marks import ChunkMarks
from prfaas_prefill_worker.chunk_times import ChunkTimes
from prfaas_prefill_worker.events import Run
from prfaas_prefill_worker.pool_calls import PoolCalls


class KVSink(Protocol):
    """Receiver of one prefill's pieces."""

    def put(self, piece: KVPiece) -> None: ...

    def finish(self, *, cached_tokens: int) -> None: ...


class Prefilled(NamedTuple):
    cached_tokens: int
    ended_unix_s: float
    """Moment at which the last layer was computed."""
    saved_s: float
    """Predicted time to compute the cached tokens that were in memory."""
    read_back: ReadBack
    """Those of the cached tokens that were on disk."""
    chunks: tuple[tuple[float, float], ...] = ()
    """(seconds since the prefill's start, prompt tokens computed by then)."""


class Prefiller:
    def __init__(
        self,
        engine: Engine,
        thread: Executor,
        prefix_cache: PrefixCache,
        speed: ComputeSpeed,
        cache_changed: Callable[[Changes], None],
    ) -> None:
        """`prefix_cache` and `speed`, by which it knows what blocks are worth, belong to the engine's thread from now on;
        `cache_changed` is called on the loop's."""
        self.description = engine.describe()
        self.calls = PoolCalls(thread)
        """Calls of others to `prefix_cache`."""
        self._engine = engine
        self._thread = thread
        self._prefix_cache = prefix_cache
        self._speed = speed
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
        seconds = time.monotonic() - started_at
        self._speed.observe(0, tokens, seconds)
        return tokens, seconds

    async def prefill(self, run: Run, sink: KVSink, cancelled: Callable[[], bool]) -> Prefilled:
        """`sink` and `cancelled` are called on the engine's thread. Raises PrefillCancelled, EngineError, what `sink` raised."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._prefill, loop, run, sink, cancelled)

    def _prefill(self, loop: asyncio.AbstractEventLoop, run: Run, sink: KVSink, cancelled: Callable[[], bool]) -> Prefilled:
        chunks = ChunkMarks(time.monotonic())

        times = ChunkTimes(self._speed)

        def put(piece: KVPiece) -> None:
            now_s = time.monotonic()
            chunks.piece(piece.range.end, now_s)
            times.piece(piece.range.end, now_s)
            sink.put(piece)
            times.held(time.monotonic() - now_s)

        def called_off() -> bool:
            self.calls.run_waiting()
            return cancelled()

        try:
            with self._prefix_cache.pin(run.token_ids, scope=run.cache_scope) as prefix:
                times.begin(prefix.cached_tokens)
                from_token = run.job.transfer.from_token
                self._engine.prefill(run.token_ids, put, called_off, prefix=prefix, from_token=from_token)
                ended_unix_s = unix_s()
                # Here and not on the loop: the manifest leaves in one write with the last frames.
                sink.finish(cached_tokens=prefix.cached_tokens)
                in_memory = prefix.cached_tokens - prefix.read_back.tokens
                saved_s = self._speed.seconds(0, in_memory) if in_memory else 0.0
                return Prefilled(prefix.cached_tokens, ended_unix_s, saved_s, prefix.read_back, chunks.marks())
        finally:
            loop.call_soon_threadsafe(self._cache_changed, self._prefix_cache.take_changes())
