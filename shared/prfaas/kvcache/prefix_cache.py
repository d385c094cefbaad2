"""KV of prompt prefixes, by blocks: a bounded index, pure and for one thread.

A hash finds a block and its tokens prove it: equal hashes of other tokens are a miss, never wrong KV. A block is of use only
behind those before it. So a prefix in use is pinned as a whole, and eviction takes the last block of a chain first.
"""

from array import array
from collections import OrderedDict
from collections.abc import Container, Iterator, Sequence
from typing import NamedTuple, Self

from prfaas.kvcache.blocks import block_hashes
from prfaas.kvcache.layout import KVLayout, KVPiece, LayerKind


class Block:
    def __init__(
        self, hash: int, parent: "Block | None", token_ids: bytes, pieces: tuple[KVPiece, ...], size_bytes: int, maker: str
    ) -> None:
        self.hash = hash
        self.parent = parent
        self.token_ids = token_ids
        """Tokens of this block alone, packed."""
        self.pieces = pieces
        """KV that is never changed; what refers to it may outlive the block's place in the cache."""
        self.maker = maker
        """Site that computed the KV; empty in the cache of a worker that computes all of its own."""
        self.size_bytes = size_bytes
        self.children = 0
        self.pins = 0


class Changes(NamedTuple):
    """Block hashes that differ from the last time."""

    stored: list[int]
    removed: list[int]


class PrefixCache:
    """Bounded by `capacity_bytes`; 0 holds nothing. `block_tokens` is the engine's chunk, so that a prefill that begins at a
    block's end runs the same chunks as one from the start."""

    def __init__(self, block_tokens: int, capacity_bytes: int, hash_key: bytes = b"") -> None:
        self.hash_key = hash_key
        self.block_tokens = block_tokens
        self.capacity_bytes = capacity_bytes
        self.size_bytes = 0
        self._blocks: OrderedDict[int, Block] = OrderedDict()
        """Blocks by hash, least recently used first. A block is never used without its parent, which stands behind it."""
        self._changed: dict[int, bool] = {}
        """Net changes since `take_changes`: hash -> held now?"""

    def __len__(self) -> int:
        return len(self._blocks)

    def pin(
        self, token_ids: Sequence[int], max_tokens: int | None = None, makers: Container[str] | None = None
    ) -> "PinnedPrefix":
        """Longest cached prefix of `token_ids`, of at most `max_tokens` tokens, kept until it is released. `makers`: sites whose
        blocks may be used; None: those of any."""
        return PinnedPrefix(self, token_ids, len(token_ids) if max_tokens is None else max_tokens, makers)

    def take_changes(self) -> Changes:
        """Changes since the last call, at most the hashes held then and those held now."""
        changed, self._changed = self._changed, {}
        return Changes([block for block, held in changed.items() if held], [block for block, held in changed.items() if not held])

    def validate(self) -> None:
        assert self.size_bytes == sum(block.size_bytes for block in self._blocks.values()) <= self.capacity_bytes
        assert all(self._changed[block] == (block in self._blocks) for block in self._changed)
        children: dict[int, int] = {}
        for block in self._blocks.values():
            assert block.pins >= 0
            if (parent := block.parent) is not None:
                assert self._blocks.get(parent.hash) is parent, "a block whose parent is gone"
                assert parent.pins >= block.pins, "a pinned block whose parent is not"
                children[parent.hash] = children.get(parent.hash, 0) + 1
        assert all(block.children == children.get(block.hash, 0) for block in self._blocks.values())

    @property
    def pinned(self) -> int:
        """Number of blocks in use."""
        return sum(1 for block in self._blocks.values() if block.pins)

    # What PinnedPrefix calls.

    def find(self, hash: int, parent: Block | None, token_ids: bytes) -> Block | None:
        block = self._blocks.get(hash)
        return block if block is not None and block.parent is parent and block.token_ids == token_ids else None

    def store(self, block: Block) -> bool:
        """Returns False when its hash is taken by other tokens, or when what is pinned leaves no room."""
        if block.hash in self._blocks or not self._make_room(block.size_bytes):
            return False
        self._blocks[block.hash] = block
        self.size_bytes += block.size_bytes
        if block.parent is not None:
            block.parent.children += 1
        self._note(block, True)
        return True

    def release(self, chain: Sequence[Block]) -> None:
        for block in reversed(chain):
            block.pins -= 1
            self._blocks.move_to_end(block.hash)

    def _make_room(self, size_bytes: int) -> bool:
        if size_bytes > self.capacity_bytes:
            return False
        while self.size_bytes + size_bytes > self.capacity_bytes:
            victim = next((block for block in self._blocks.values() if not block.pins and not block.children), None)
            if victim is None:
                return False
            del self._blocks[victim.hash]
            self.size_bytes -= victim.size_bytes
            if victim.parent is not None:
                victim.parent.children -= 1
            self._note(victim, False)
        return True

    def _note(self, block: Block, held: bool) -> None:
        if self._changed.pop(block.hash, held) == held:
            self._changed[block.hash] = held


class PinnedPrefix:
    """Cached prefix of a prompt, in use: nothing of it is evicted before the `with` block ends. It grows by what is computed."""

    def __init__(self, cache: PrefixCache, token_ids: Sequence[int], max_tokens: int, makers: Container[str] | None) -> None:
        self._cache = cache
        self._packed = memoryview(array("I", token_ids)).cast("B")
        self._hashes = block_hashes(token_ids, cache.block_tokens, cache.hash_key)
        self._refused = cache.capacity_bytes == 0
        self.blocks: list[Block] = []
        for index in range(min(len(self._hashes), max_tokens // cache.block_tokens)):
            block = cache.find(self._hashes[index], self._last, self._tokens_of(index))
            if block is None or (makers is not None and block.maker not in makers):
                break
            self._pin(block)
        self.cached_tokens = self.tokens
        """Tokens that were cached from the start."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._refused = True
        chain, self.blocks = self.blocks, []
        self._cache.release(chain)

    @property
    def tokens(self) -> int:
        """Tokens that are cached, those appended included."""
        return len(self.blocks) * self._cache.block_tokens

    def wants(self, start: int, end: int) -> bool:
        """Tells whether `append` would take the block of tokens [start, end), as far as one can tell before it is made."""
        return not self._refused and start == self.tokens and end == start + self._cache.block_tokens

    def append(self, pieces: tuple[KVPiece, ...], size_bytes: int, maker: str = "") -> bool:
        """Stores the prompt's next block. `pieces` must own their memory. Once one is refused, all that follow are."""
        index = len(self.blocks)
        if self._refused or index >= len(self._hashes):
            return False
        token_ids = self._tokens_of(index)
        block = self._cache.find(self._hashes[index], self._last, token_ids)  # of another prompt, stored meanwhile
        if block is None:
            block = Block(self._hashes[index], self._last, token_ids, pieces, size_bytes, maker)
            self._refused = not self._cache.store(block)
        if not self._refused:
            self._pin(block)
        return not self._refused

    def needed(self, layout: KVLayout, prefill_tokens: int, from_token: int) -> Iterator[KVPiece]:
        """Pieces of the cached blocks that a transfer carries, in the order in which they were computed."""
        for block in self.blocks:
            for piece in block.pieces:
                layer, start, end = piece.range
                if layout.layers[layer].kind is LayerKind.RECURRENT:
                    if end == prefill_tokens:
                        yield piece
                    continue
                start = max(start, layout.needed(layer, prefill_tokens, from_token).start)
                if start < end:
                    yield piece.part(start, end)

    @property
    def _last(self) -> Block | None:
        return self.blocks[-1] if self.blocks else None

    def _pin(self, block: Block) -> None:
        block.pins += 1
        self.blocks.append(block)

    def _tokens_of(self, index: int) -> bytes:
        size = 4 * self._cache.block_tokens
        return bytes(self._packed[index * size : (index + 1) * size])
