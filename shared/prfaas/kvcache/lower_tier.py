"""The tier beneath a worker's pool: slower, larger, and still there after a restart. What the pool asks of it."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from prfaas.kvcache.block import Block, Part


class LowerTier(Protocol):
    """Belongs to the thread of its pool. Nothing that it does there waits for a write."""

    def holds(self, hash: int) -> bool:
        """Tells whether a prompt can be resumed after this block by reading it."""
        ...

    def readable_bytes(self, hash: int, *, checkpoint: bool) -> int:
        """Returns the size of a block, or of the checkpoint at its end; 0 when it cannot be read."""
        ...

    def read_s(self, size_bytes: int) -> float:
        """Predicts the time to read a number of bytes, s."""
        ...

    def read(self, hash: int, proof: bytes, *, checkpoint: bool) -> Part | None:
        """Reads one, and checks that it is the KV of the tokens that `proof` stands for. None when it is damaged or another's: it
        is not readable any more then."""
        ...

    def keep(self, chain: Sequence[Block], proofs: Sequence[bytes]) -> None:
        """Takes the blocks of a prompt that was served, to write what it does not have."""
        ...

    def take_touched(self) -> Iterable[int]:
        """Returns the hashes of blocks that may have come or gone since the last call."""
        ...

    def validate(self) -> None: ...
