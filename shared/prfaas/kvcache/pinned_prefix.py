"""Cached prefix of one prompt, in use: nothing of it is evicted before the `with` block ends. It grows by what is computed."""

from collections.abc import Container, Iterator, Sequence
from itertools import takewhile
from typing import Self

from prfaas.kvcache.block import Block, Part
from prfaas.kvcache.block_pool import BlockPool
from prfaas.kvcache.checkpoints import checkpoint_places, is_spare_place
from prfaas.kvcache.layout import KVLayout, KVPiece, LayerKind, LayerRange
from prfaas.kvcache.lower_tier import LowerTier
from prfaas.kvcache.prompt_blocks import PromptBlocks
from prfaas.kvcache.read_back import ReadBack, read_back, resumable_blocks


class PinnedPrefix:
    def __init__(
        self,
        cache: BlockPool,
        lower: LowerTier | None,
        prompt: PromptBlocks,
        max_blocks: int | None = None,
        makers: Container[str] | None = None,
    ) -> None:
        """`max_blocks`: most blocks that are looked up; None: all. `makers`: see `PrefixCache.pin`."""
        self._cache = cache
        self._lower = lower
        self._prompt = prompt
        self._hashes = prompt.hashes
        self._refused = cache.capacity_bytes == 0
        self._chain: list[Block] = []
        """Blocks of the prompt that were found or stored, pinned."""
        most = len(self._hashes) if max_blocks is None else min(len(self._hashes), max_blocks)
        for index in range(most):
            block = cache.find(self._hashes[index], self._last, prompt.proof(index))
            if block is None or (makers is not None and block.maker not in makers):
                break
            cache.pin_block(block)
            self._chain.append(block)
        self.read_back = ReadBack(0, 0, 0.0)
        """Part of it that came from the lower tier."""
        self._proofs: list[bytes] = []
        if lower is not None and cache.capacity_bytes:
            self._proofs = prompt.lower_proofs()
            try:
                self.read_back = read_back(cache, lower, self._hashes[:most], self._proofs, prompt.proof, self._chain)
            except BaseException:  # such as MemoryError: what is pinned would stay so for ever
                cache.release(self._chain)
                raise
        self._done = resumable_blocks(cache, self._chain)
        """Number of blocks whose tokens are computed: behind the last of them the prompt is resumed."""
        self.cached_tokens = self.tokens
        """Tokens that were cached from the start."""
        self._places: frozenset[int] = frozenset()
        if cache.checkpoint_spacing:
            self._places = checkpoint_places(
                cache.checkpoint_spacing, resumed=self._done, matched=len(self._chain), whole=len(self._hashes)
            )
            if self._done:
                cache.keep_checkpoint(self._chain[self._done - 1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._refused = True
        chain, self._chain, self._done = self._chain, [], 0
        try:
            # What another site has made stays in memory: a file does not tell.
            own = [*takewhile(lambda block: not block.maker, chain)]
            if self._lower is not None and own:
                self._lower.keep(own, self._proofs)
        finally:
            self._cache.release(chain)

    @property
    def needs_checkpoints(self) -> bool:
        return self._cache.checkpoint_spacing > 0

    @property
    def blocks(self) -> list[Block]:
        """Blocks of the tokens that are cached, those appended included."""
        return self._chain[: self._done]

    @property
    def tokens(self) -> int:
        """Tokens that are cached, those appended included."""
        return self._done * self._cache.block_tokens

    def wants(self, start: int, end: int) -> bool:
        """Tells whether `append` would take the block of tokens [start, end), as far as one can tell before it is made."""
        return not self._refused and start == self.tokens and end == start + self._cache.block_tokens

    @property
    def wants_checkpoint(self) -> bool:
        """Tells whether the next block's end is a place of a checkpoint, be it a spare one, and has none."""
        place = self._done + 1
        if not self.needs_checkpoints or not (place in self._places or is_spare_place(self._cache.checkpoint_spacing, place)):
            return False
        return place > len(self._chain) or not self._cache.can_resume_after(self._chain[self._done])

    def kept_ranges(self, layout: KVLayout, start: int, end: int) -> list[LayerRange]:
        """Returns the ranges of the next chunk that `append` takes, in the order of layers: the block's, unless it is cached,
        and the checkpoint's, where one is placed. Empty when it takes nothing."""
        if not self.wants(start, end):
            return []
        kept = [] if self._done < len(self._chain) else [*layout.block_ranges(start, end)]
        assert self.needs_checkpoints or not any(layout.checkpoint_ranges(end)), "a cache of a model with other layers"
        if self.wants_checkpoint:
            kept += layout.checkpoint_ranges(end)
        return sorted(kept)

    def append(self, block: Part | None, checkpoint: Part | None = None, maker: str = "") -> bool:
        """Takes the prompt's next block, None for one that is cached, and what is kept of its end. Once one is refused, all that
        follow are."""
        index = self._done
        if self._refused or index >= len(self._hashes):
            return False
        if index == len(self._chain):
            stored = self._next(index, block, maker)
            self._refused = stored is None
            if stored is None:
                return False
            self._chain.append(stored)
        self._done += 1
        if checkpoint is not None and checkpoint.size_bytes:
            self._cache.store_checkpoint(self._chain[index], checkpoint, spare=self._done not in self._places)
        return True

    def loaded(self) -> Iterator[KVPiece]:
        """Yields the KV with which a prefill goes on after the cached tokens."""
        for block in self.blocks:
            yield from block.pieces
        yield from self._at_end()

    def needed(self, layout: KVLayout, prefill_tokens: int, from_token: int) -> Iterator[KVPiece]:
        """Yields the pieces of the cached tokens that a transfer carries, in the order in which they were computed."""
        # States after fewer tokens are of no use to who receives it, nor looked at.
        states_only = not any(spec.kind is LayerKind.SLIDING for spec in layout.layers)
        of_blocks = (piece for block in self.blocks for piece in block.pieces)
        for piece in of_blocks if states_only and self.tokens != prefill_tokens else self.loaded():
            layer, start, end = piece.range
            if layout.layers[layer].kind is LayerKind.RECURRENT:
                if end == prefill_tokens:
                    yield piece
                continue
            start = max(start, layout.needed(layer, prefill_tokens, from_token).start)
            if start < end:
                yield piece.part(start, end)

    def _at_end(self) -> Sequence[KVPiece]:
        checkpoint = self._chain[self._done - 1].checkpoint if self._done else None
        return () if checkpoint is None else checkpoint.pieces

    @property
    def _last(self) -> Block | None:
        return self._chain[-1] if self._chain else None

    def _next(self, index: int, part: Part | None, maker: str) -> Block | None:
        hash, last, proof = self._hashes[index], self._last, self._prompt.proof(index)
        found = self._cache.find(hash, last, proof)
        if found is not None:  # of another prompt, stored meanwhile
            self._cache.pin_block(found)
            return found
        return None if part is None else self._cache.store(hash, last, proof, part, maker)
