"""Blocks of a prefix put together from the pieces of a transfer, and handed to the pool once all are there and verified."""

from collections.abc import Sequence

from prfaas.kvcache.block import Part
from prfaas.kvcache.layout import KVLayout, KVPiece, LayerKind, LayerRange
from prfaas.kvcache.prefix_cache import PrefixCache


class PulledPrefix:
    """KV of tokens [`from_token`, `tokens`), both at blocks' ends, and the checkpoint there. Memory is taken at once."""

    def __init__(self, layout: KVLayout, block_tokens: int, from_token: int, tokens: int) -> None:
        assert not from_token % block_tokens and not tokens % block_tokens and from_token < tokens
        self._layout = layout
        self._block_tokens = block_tokens
        self._from_token = from_token
        self._tokens = tokens
        self._buffers: dict[LayerRange, memoryview] = {}
        for start in range(from_token, tokens, block_tokens):
            for part in layout.block_ranges(start, start + block_tokens):
                self._buffers[part] = memoryview(bytearray(layout.range_bytes(part)))
        for part in layout.checkpoint_ranges(tokens):
            self._buffers[part] = memoryview(bytearray(layout.range_bytes(part)))

    @property
    def size_bytes(self) -> int:
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def install(self, piece: KVPiece) -> None:
        """Copies a piece, whose place in the transfer is checked, to where it belongs."""
        layer, first, last = piece.range
        if self._layout.layers[layer].kind is not LayerKind.FULL:
            self._copy(self._layout.needed(layer, self._tokens), piece)
            return
        start = first - first % self._block_tokens
        while start < last:
            end = start + self._block_tokens
            self._copy(LayerRange(layer, start, end), piece.part(max(first, start), min(last, end)))
            start = end

    def store(self, cache: PrefixCache, token_ids: Sequence[int], scope: str, maker: str) -> int:
        """Puts the blocks into the pool. Returns the tokens that are cached then: fewer without room. Belongs to the pool's
        thread."""
        with cache.pin(token_ids[: self._tokens], scope=scope) as prefix:
            for start in range(max(prefix.tokens, self._from_token), self._tokens, self._block_tokens):
                end = start + self._block_tokens
                checkpoint = Part.of(map(self._piece, self._layout.checkpoint_ranges(end))) if end == self._tokens else None
                block = Part.of(map(self._piece, self._layout.block_ranges(start, end)))
                if not prefix.wants(start, end) or not prefix.append(block, checkpoint, maker):
                    break
        with cache.pin(token_ids[: self._tokens], scope=scope) as prefix:
            return prefix.cached_tokens

    def _piece(self, part: LayerRange) -> KVPiece:
        return self._layout.piece(part, self._buffers[part])

    def _copy(self, whole: LayerRange, piece: KVPiece) -> None:
        target = self._piece(whole)
        for to, data in ((target.keys, piece.keys), (target.values, piece.values)):
            if not to.nbytes:
                continue
            row_bytes = to.nbytes // (whole.end - whole.start)
            at = (piece.range.start - whole.start) * row_bytes
            to[at : at + data.nbytes] = data.cast("B")
