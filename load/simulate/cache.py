"""A worker's prefix cache as a scheduler sees it: the blocks that it holds, and its announcements."""

from array import array
from collections import OrderedDict
from collections.abc import Sequence

from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import BlocksChanged


class BlockCache:
    """Cache of at most `capacity` blocks; the least recently used leave first, the end of a prefix before its beginning. 0
    keeps none."""

    def __init__(self, site: str, worker: str, role: Role, capacity: int) -> None:
        self.capacity = capacity
        self._site, self._worker, self._role = site, worker, role
        self._blocks: OrderedDict[int, None] = OrderedDict()
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._blocks)

    def cached(self, blocks: Sequence[int]) -> int:
        """Number of a prompt's first blocks that are held."""
        for count, block in enumerate(blocks):
            if block not in self._blocks:
                return count
        return len(blocks)

    def use(self, blocks: Sequence[int]) -> BlocksChanged | None:
        """Takes in the prompt's blocks, as many as there is room for. Returns the announcement; None when nothing changed."""
        kept = blocks[: self.capacity]
        stored = [block for block in kept if block not in self._blocks]
        for block in reversed(kept):
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        removed = [self._blocks.popitem(last=False)[0] for _ in range(len(self._blocks) - self.capacity)]
        if not stored and not removed:
            return None
        self._sequence += 1
        return BlocksChanged(
            site=self._site,
            worker=self._worker,
            role=self._role,
            incarnation="simulated",
            sequence=self._sequence,
            stored=bytes(array("Q", stored)),
            removed=bytes(array("Q", removed)),
        )
