"""Full layers' KV of prompts that were served here, block by block. A later prompt's transfer leaves out what it shares.

Only verified KV of prefills enters: a decode step's KV of the same tokens differs in its last bits. What another site made is of
use to prompts that this site prefills too, and to no others: a site that makes wrong KV harms only what it is given.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from prfaas.engine.protocol import Engine
from prfaas.kvcache.block import Block, Part
from prfaas.kvcache.block_pool import Changes
from prfaas.kvcache.layout import KVPiece, LayerKind, LayerRange
from prfaas.kvcache.prefix_cache import PrefixCache


class KeptPrefixes:
    """Blocks that are kept. Its state is the loop's own; only copying is done on other threads."""

    def __init__(
        self, engine: Engine, capacity_bytes: int, changed: Callable[[Changes], None], *, site: str, hash_key: bytes = b""
    ) -> None:
        """`site`: the own one, whose KV is of use to every prompt."""
        description = engine.describe()
        self.engine = engine
        self._full_layers = [layer for layer, spec in enumerate(description.layout.layers) if spec.kind is LayerKind.FULL]
        self._cache = PrefixCache(description.chunk_tokens, capacity_bytes if self._full_layers else 0, hash_key)
        self._changed = changed
        self._site = site

    async def install(self, sequence: Any, token_ids: Sequence[int], prefill_site: str, scope: str = "") -> int:
        """Fills a fresh sequence with what is kept of its prompt for `scope`, less than all of it.

        Returns the token from which the rest must come, from `prefill_site`. Raises what the engine raises."""
        makers = {self._site, prefill_site}
        with self._cache.pin(token_ids, max_tokens=len(token_ids) - 1, makers=makers, scope=scope) as prefix:
            if prefix.blocks:
                await asyncio.to_thread(self._install, sequence, prefix.blocks)
            return prefix.cached_tokens

    async def keep(self, sequence: Any, token_ids: Sequence[int], prefill_site: str, scope: str = "") -> None:
        """Stores what of a verified prompt, made by `prefill_site`, is not kept yet. The own site's KV takes the place
        of another's. Raises what the engine raises. It may be decoded meanwhile."""
        with self._cache.pin(token_ids, scope=scope) as prefix:
            block_tokens = self._cache.block_tokens
            for number, block in enumerate(prefix.blocks):
                if prefill_site == self._site != block.maker:
                    start = number * block_tokens
                    block.pieces = await asyncio.to_thread(self._read, sequence, start, start + block_tokens)
                    block.maker = self._site
            while prefix.wants(prefix.tokens, prefix.tokens + block_tokens) and prefix.tokens + block_tokens <= len(token_ids):
                pieces = await asyncio.to_thread(self._read, sequence, prefix.tokens, prefix.tokens + block_tokens)
                prefix.append(Part.of(pieces), maker=prefill_site)
        self._changed(self._cache.take_changes())

    @property
    def pinned(self) -> int:
        return self._cache.pinned

    def _install(self, sequence: Any, blocks: Sequence[Block]) -> None:
        for block in blocks:
            for piece in block.pieces:
                self.engine.install(sequence, piece)

    def _read(self, sequence: Any, start: int, end: int) -> tuple[KVPiece, ...]:
        return tuple(self.engine.read(sequence, LayerRange(layer, start, end)) for layer in self._full_layers)
