"""KV of prompt prefixes, by blocks: one bounded pool for all of a model's layers, pure and for one thread.

A hash finds a block and its tokens prove it: equal hashes of other tokens are a miss, never wrong KV. A block is of use only
behind those before it. So a prefix in use is pinned as a whole, and eviction takes the last block of a chain first. Of models
that need checkpoints (`checkpoints.py`), a block without one at its end or behind it is of no use, and goes first.
"""

from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import NamedTuple, Self

from prfaas.kvcache.block import Block, Checkpoint, Part
from prfaas.kvcache.checkpoints import checkpoint_spacing
from prfaas.kvcache.eviction import CREDIT_TURNOVERS, EvictionOrder
from prfaas.kvcache.layout import KVLayout

ComputeTime = Callable[[int, int], float]
"""Predicts the time to compute tokens [start, end) of a prompt, s."""


class Tier(Enum):
    """Place in which blocks are held."""

    MEMORY = "memory"
    DISK = "disk"


class Changes(NamedTuple):
    """Hashes of blocks after which a prompt can be resumed, as far as they differ from the last time."""

    stored: dict[int, Tier]
    """Those that came, or moved, to this tier."""
    removed: list[int]


class BlockPool:
    """Bounded by `capacity_bytes`; 0 holds nothing. `block_tokens` is the engine's chunk, so that a prefill that begins at a
    block's end runs the same chunks as one from the start."""

    def __init__(
        self,
        block_tokens: int,
        capacity_bytes: int,
        hash_key: bytes = b"",
        *,
        checkpoint_spacing: int = 0,
        compute_s: ComputeTime | None = None,
        credit_turnovers: float = CREDIT_TURNOVERS,
        evicted: Callable[[Block | Checkpoint], None] | None = None,
    ) -> None:
        """`checkpoint_spacing`: see `checkpoints.py`; 0: a prompt can be resumed after every block. Without `compute_s` all
        tokens cost the same. `credit_turnovers`: see `eviction.py`. `evicted` hears of all that is given up."""
        self.hash_key = hash_key
        self.block_tokens = block_tokens
        self.capacity_bytes = capacity_bytes
        self.checkpoint_spacing = checkpoint_spacing
        self.size_bytes = 0
        self.evicted_bytes = 0
        self._evicted = evicted
        self.compute_s: ComputeTime = compute_s or _evenly
        self._blocks: dict[int, Block] = {}
        self._order: EvictionOrder[Block | Checkpoint] = EvictionOrder(capacity_bytes, credit_turnovers)
        self._touched: dict[int, None] = {}
        """Hashes of blocks that may have come or gone since `take_changes`, in that order."""
        self._told: dict[int, Tier] = {}
        """Hashes that were held at the last `take_changes`, and where."""

    @classmethod
    def for_model(
        cls,
        layout: KVLayout,
        block_tokens: int,
        capacity_bytes: int,
        hash_key: bytes = b"",
        *,
        compute_s: ComputeTime | None = None,
    ) -> Self:
        """Makes a cache of all that a prefill of the model needs, whatever its layers are."""
        spacing = checkpoint_spacing(layout, block_tokens)
        return cls(block_tokens, capacity_bytes, hash_key, checkpoint_spacing=spacing, compute_s=compute_s)

    def __len__(self) -> int:
        return len(self._blocks)

    def tier(self, hash: int) -> Tier | None:
        """Returns where all is that a prompt needs which is resumed after this block; None when it cannot be."""
        block = self._blocks.get(hash)
        return Tier.MEMORY if block is not None and self.can_resume_after(block) else None

    def take_changes(self) -> Changes:
        """Changes since the last call, at most the hashes held then and those held now."""
        stored: dict[int, Tier] = {}
        removed: list[int] = []
        for hash in self._touched:
            if (tier := self.tier(hash)) is self._told.get(hash):
                continue
            if tier is None:
                removed.append(hash)
                del self._told[hash]
            else:
                stored[hash] = tier
        self._touched.clear()
        self._told.update(stored)
        return Changes(stored, removed)

    @property
    def pinned(self) -> int:
        """Number of blocks in use."""
        return sum(1 for block in self._blocks.values() if block.pins)

    def can_resume_after(self, block: Block) -> bool:
        return not self.checkpoint_spacing or block.checkpoint is not None

    def validate(self) -> None:
        checkpoints = [block.checkpoint for block in self._blocks.values() if block.checkpoint is not None]
        sizes = [unit.size_bytes for unit in (*self._blocks.values(), *checkpoints)]
        assert self.size_bytes == sum(sizes) and (self.size_bytes <= self.capacity_bytes)
        assert not checkpoints or self.checkpoint_spacing
        changed = {hash for hash in {*self._blocks, *self._told} if self.tier(hash) is not self._told.get(hash)}
        assert changed <= self._touched.keys(), "a change that nobody will hear of"
        children: dict[int, int] = {}
        for block in self._blocks.values():
            assert block.pins >= 0
            if (parent := block.parent) is not None:
                assert self._blocks.get(parent.hash) is parent, "a block whose parent is gone"
                assert parent.pins >= block.pins, "a pinned block whose parent is not"
                assert block.number == parent.number + 1
                children[parent.hash] = children.get(parent.hash, 0) + 1
        for block in self._blocks.values():
            assert block.children == children.get(block.hash, 0)
            assert bool(block.ticket) == self._is_free(block), "what may be evicted is on offer, and nothing else"
            if (checkpoint := block.checkpoint) is not None:
                assert checkpoint.block is block
                assert bool(checkpoint.ticket) == (not block.pins or not checkpoint.seconds)
        assert len(self._order) == sum(bool(unit.ticket) for unit in (*self._blocks.values(), *checkpoints))

    # What PinnedPrefix and a tier call.

    def touch(self, hashes: Iterable[int]) -> None:
        """Takes that blocks may have come or gone in another tier."""
        self._touched.update(dict.fromkeys(hashes))

    @property
    def seconds_per_byte(self) -> float:
        """Predicted time to compute a byte of KV, in the mean of all that came in; 0 before anything did."""
        return self._order.seconds_per_byte

    def blocks(self) -> Iterable[Block]:
        return self._blocks.values()

    def block(self, hash: int) -> Block | None:
        return self._blocks.get(hash)

    def find(self, hash: int, parent: Block | None, proof: bytes) -> Block | None:
        block = self._blocks.get(hash)
        return block if block is not None and block.parent is parent and block.proof == proof else None

    def store(self, hash: int, parent: Block | None, proof: bytes, part: Part, maker: str) -> Block | None:
        """Returns the new block, pinned once; None when its hash is taken by other tokens, or what is pinned leaves no room."""
        if hash in self._blocks or not self._make_room(part.size_bytes):
            return None
        seconds = 0.0  # where checkpoints are needed, a block lives by them and has no worth of its own
        if not self.checkpoint_spacing:
            number = parent.number + 1 if parent is not None else 0
            seconds = self.compute_s(number * self.block_tokens, (number + 1) * self.block_tokens)
        block = Block(hash, parent, proof, part, seconds, maker)
        block.pins = 1
        self._blocks[hash] = block
        if parent is not None:
            parent.children += 1
        self.size_bytes += block.size_bytes
        self._order.took_in(block)
        self._touched[hash] = None
        return block

    def store_checkpoint(self, block: Block, part: Part, *, spare: bool = False) -> bool:
        """Gives a pinned block its checkpoint. Returns False when it has one, or when what is pinned, or with `spare` what is of
        any worth, leaves no room."""
        assert block.pins and self.checkpoint_spacing
        if block.checkpoint is not None or not self._make_room(part.size_bytes, spare=spare):
            return False
        block.checkpoint = Checkpoint(block, part, 0.0)
        self.size_bytes += part.size_bytes
        if spare:  # it may go at any moment: the prefill that leaves it does not need it
            self._order.offer(block.checkpoint)
        else:
            self.keep_checkpoint(block)
        self._touched[block.hash] = None
        return True

    def keep_checkpoint(self, block: Block) -> None:
        """Counts a use of a pinned block's checkpoint. A spare one is none any more."""
        checkpoint = block.checkpoint
        assert checkpoint is not None and block.pins
        if not checkpoint.seconds:
            self._order.withdraw(checkpoint)
            before = block.parent
            while before is not None and (before.checkpoint is None or not before.checkpoint.seconds):
                before = before.parent
            start = 0 if before is None else before.number + 1
            checkpoint.seconds = self.compute_s(start * self.block_tokens, (block.number + 1) * self.block_tokens)
            self._order.took_in(checkpoint)
        self._order.use(checkpoint)

    def pin_block(self, block: Block) -> None:
        block.pins += 1
        self._order.withdraw(block)
        if block.checkpoint is not None and block.checkpoint.seconds:
            self._order.withdraw(block.checkpoint)

    def release(self, chain: Sequence[Block]) -> None:
        for block in reversed(chain):
            block.pins -= 1
            if not block.ticket:
                self._order.use(block)
            self._offer(block)

    # Inside.

    def _is_free(self, block: Block) -> bool:
        return not (block.pins or block.children or block.checkpoint)

    def _offer(self, block: Block) -> None:
        if block.pins:
            return
        if block.checkpoint is not None:
            self._order.offer(block.checkpoint)
        elif not block.children:
            self._order.offer(block)

    def _make_room(self, size_bytes: int, *, spare: bool = False) -> bool:
        if size_bytes > self.capacity_bytes:
            return False
        while self.size_bytes + size_bytes > self.capacity_bytes:
            unit = self._order.take(worthless=spare)
            if unit is None:
                return False
            self.size_bytes -= unit.size_bytes
            self.evicted_bytes += unit.size_bytes
            if self._evicted is not None:
                self._evicted(unit)
            if isinstance(unit, Checkpoint):
                unit.block.checkpoint = None
                self._touched[unit.block.hash] = None
                self._offer(unit.block)
            else:
                self._remove(unit)
        return True

    def _remove(self, block: Block) -> None:
        del self._blocks[block.hash]
        self._touched[block.hash] = None
        if (parent := block.parent) is not None:
            parent.children -= 1
            self._offer(parent)


def _evenly(start: int, end: int) -> float:
    return float(end - start)
