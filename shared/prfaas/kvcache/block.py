"""A block of a prompt in a cache, and the checkpoint at its end: the two things that are stored and evicted."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

from prfaas.kvcache.eviction import Unit
from prfaas.kvcache.layout import KVLayout, KVPiece, LayerKind


class Part(NamedTuple):
    """KV of a block or of a checkpoint, as an engine made it. The pieces own their memory and are never changed."""

    pieces: Sequence[KVPiece]
    size_bytes: int

    @classmethod
    def of(cls, pieces: Iterable[KVPiece]) -> Self:
        whole = tuple(pieces)
        return cls(whole, sum(piece.size_bytes for piece in whole))


def parts_of(layout: KVLayout, pieces: Iterable[KVPiece]) -> tuple[Part, Part]:
    """Returns what of one chunk's pieces belongs to its block, and what to the checkpoint at its end."""
    full: list[KVPiece] = []
    rest: list[KVPiece] = []
    for piece in pieces:
        (full if layout.layers[piece.range.layer].kind is LayerKind.FULL else rest).append(piece)
    return Part.of(full), Part.of(rest)


class Checkpoint(Unit):
    """Windows and states at a block's end, with which a prefill goes on behind it. A spare one has no seconds: it is worth no
    other's place."""

    __slots__ = ("block", "pieces")

    def __init__(self, block: "Block", part: Part, seconds: float) -> None:
        super().__init__(part.size_bytes, seconds)
        self.block = block
        self.pieces = part.pieces


class Block(Unit):
    """KV of full layers. Its use depends on all blocks before it, which its parent stands for."""

    __slots__ = ("checkpoint", "children", "hash", "maker", "number", "parent", "pieces", "pins", "proof")

    def __init__(self, hash: int, parent: "Block | None", proof: bytes, part: Part, seconds: float, maker: str) -> None:
        super().__init__(part.size_bytes, seconds)
        self.hash = hash
        self.parent = parent
        self.number: int = parent.number + 1 if parent is not None else 0
        """Count of the blocks before it."""
        self.proof = proof
        """Tokens of this block alone, packed, and of a prompt's first the scope: equal hashes of others must not meet."""
        self.pieces = part.pieces
        """KV that may be referred to for longer than the block has its place in the cache."""
        self.maker = maker
        """Site that computed the KV; empty in the cache of a worker that computes all of its own."""
        self.checkpoint: Checkpoint | None = None
        self.children = 0
        self.pins = 0
