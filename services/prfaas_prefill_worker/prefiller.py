"""Runs prefills on the engine's thread, from what the prefix cache has of their prompts."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor

from prfaas.engine.protocol import Engine
from prfaas.kvcache.layout import KVPiece
from prfaas.kvcache.prefix_cache import Changes, PrefixCache
from prfaas_prefill_worker.events import Run


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

    async def prefill(self, run: Run, on_piece: Callable[[KVPiece], None], cancelled: Callable[[], bool]) -> int:
        """Returns how many tokens were cached. `on_piece` and `cancelled` are called on the engine's thread. Raises
        PrefillCancelled, EngineError, or what `on_piece` raised."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._prefill, loop, run, on_piece, cancelled)

    def _prefill(
        self, loop: asyncio.AbstractEventLoop, run: Run, on_piece: Callable[[KVPiece], None], cancelled: Callable[[], bool]
    ) -> int:
        try:
            with self._prefix_cache.pin(run.token_ids) as prefix:
                from_token = run.job.transfer.from_token
                self._engine.prefill(run.token_ids, on_piece, cancelled, prefix=prefix, from_token=from_token)
                return prefix.cached_tokens
        finally:
            loop.call_soon_threadsafe(self._cache_changed, self._prefix_cache.take_changes())
