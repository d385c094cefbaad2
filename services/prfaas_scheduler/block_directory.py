"""Which worker holds which cached block, as workers announce it: longest cached prefixes, among millions of blocks.

A block's hash covers everything before it, and caches give up the end of a prefix before its beginning. So the deepest block of a
prompt that a worker holds says how long its cached prefix is, and nothing else about the chain has to be known: not even that the
blocks before it are still listed here. Workers are bits of an integer: what a whole site holds is one operation away.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from prfaas.contracts.to_scheduler import BlocksChanged, BlocksHeld
from prfaas.kvcache.blocks import unpack_hashes

MAX_BLOCKS = 2_000_000
"""Pairs of worker and block that are remembered: about 130 bytes each."""
SHED_SHARE = 1 / 256
"""Of the maximum, dropped at once when it is exceeded: finding the oldest costs a walk over those that left before."""
FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 300.0
"""Between two questions to a worker whose cache is not known for certain; doubled each time: there may be no answer at all."""


class Level(NamedTuple):
    """Workers that have the same number of a prompt's blocks."""

    blocks: int
    workers: int
    """Their bits."""


@dataclass(slots=True)
class _Cache:
    """One worker's, as far as it is known."""

    bit: int
    incarnation: str | None = None
    sequence: int = 0
    certain: bool = False
    """Nothing that it announced was missed."""
    ask_at_s: float = 0.0
    pause_s: float = FIRST_PAUSE_S
    hashes: dict[int, None] = field(default_factory=dict)


class BlockDirectory:
    """Of workers that joined and have not left; what others announce is nobody's. Methods that return a bool say whether to ask
    the worker for all that it holds (BlocksHeld): after a gap in its numbers, a new incarnation, or while nothing is known."""

    def __init__(self, max_blocks: int = MAX_BLOCKS) -> None:
        self.max_blocks = max_blocks
        self.dropped = 0
        """Pairs of worker and block that were forgotten to stay within the maximum."""
        self.blocks = 0
        """Pairs of worker and block."""
        self._caches: dict[str, _Cache] = {}
        self._keys: list[str | None] = []
        """By bit number."""
        self._free: list[int] = []
        """Bit numbers of workers that left."""
        self._holders: dict[int, int] = {}
        """By hash, the oldest first: the bits of those that hold the block."""

    # ---- what workers say

    def join(self, key: str) -> int:
        """The worker's bit, the same one until it leaves."""
        cache = self._caches.get(key)
        if cache is None:
            if self._free:
                number = self._free.pop()
                self._keys[number] = key
            else:
                number = len(self._keys)
                self._keys.append(key)
            cache = self._caches[key] = _Cache(1 << number)
        return cache.bit

    def leave(self, key: str) -> None:
        cache = self._caches.pop(key, None)
        if cache is not None:
            self._remove(cache, list(cache.hashes))
            number = cache.bit.bit_length() - 1
            self._keys[number] = None
            self._free.append(number)

    def doubtful(self, key: str, now_s: float) -> bool:
        """Asked at each sign of life."""
        cache = self._caches.get(key)
        if cache is None or cache.certain or now_s < cache.ask_at_s:
            return False
        cache.ask_at_s = now_s + cache.pause_s
        cache.pause_s = min(2 * cache.pause_s, MAX_PAUSE_S)
        return True

    def change(self, key: str, changed: BlocksChanged, now_s: float) -> bool:
        """Raises ValueError for hashes that are none. An old announcement that comes late changes nothing."""
        stored, removed = unpack_hashes(changed.stored), unpack_hashes(changed.removed)
        cache = self._caches.get(key)
        if cache is None:
            return False
        if changed.incarnation != cache.incarnation:
            self._restart(cache, changed.incarnation)
            cache.certain = changed.sequence == 1
        elif changed.sequence <= cache.sequence:
            return False
        elif changed.sequence != cache.sequence + 1:
            cache.certain = False
        cache.sequence = changed.sequence
        self._remove(cache, removed)
        self._store(cache, stored)
        return self.doubtful(key, now_s)

    def hold(self, key: str, held: BlocksHeld) -> None:
        """The answer to the question. One that newer announcements have overtaken says too little: it is asked again. Raises
        ValueError for hashes that are none."""
        hashes = unpack_hashes(held.hashes)
        cache = self._caches.get(key)
        if cache is None or (held.incarnation == cache.incarnation and held.sequence < cache.sequence):
            return
        self._restart(cache, held.incarnation)
        cache.sequence, cache.certain, cache.pause_s = held.sequence, True, FIRST_PAUSE_S
        self._store(cache, hashes)

    # ---- what is asked

    def find(self, hashes: Sequence[int]) -> list[Level]:
        """The longest cached prefix of each worker that has any, the longest of all first."""
        holders, found = self._holders, []
        seen = last = 0
        for blocks in range(len(hashes) if holders else 0, 0, -1):
            mask = holders.get(hashes[blocks - 1], 0)
            if mask != last and (new := mask & ~seen):
                found.append(Level(blocks, new))
                seen |= new
            last = mask
        return found

    def keys(self, workers: int, limit: int) -> Iterator[str]:
        """Of the first `limit` of these bits."""
        while workers and limit:
            bit = workers & -workers
            workers ^= bit
            limit -= 1
            key = self._keys[bit.bit_length() - 1]
            assert key is not None, "a bit is a worker's"
            yield key

    # ---- inside

    def _restart(self, cache: _Cache, incarnation: str) -> None:
        self._remove(cache, list(cache.hashes))
        cache.incarnation, cache.sequence = incarnation, 0

    def _store(self, cache: _Cache, hashes: Iterable[int]) -> None:
        bit, own, holders = cache.bit, cache.hashes, self._holders
        for block in hashes:
            if block not in own:
                own[block] = None
                self.blocks += 1
                mask = holders.get(block)
                holders[block] = bit if mask is None else mask | bit  # `bit` itself: most blocks have one holder
        if self.blocks > self.max_blocks:
            self._shed()

    def _remove(self, cache: _Cache, hashes: Iterable[int]) -> None:
        bit, own, holders = cache.bit, cache.hashes, self._holders
        for block in hashes:
            if block in own:
                del own[block]
                self.blocks -= 1
                mask = holders[block]
                if mask == bit:
                    del holders[block]
                else:
                    holders[block] = mask ^ bit

    def _shed(self) -> None:
        """Forgets what was announced first. Its owners still hold it: they are not asked again for it."""
        surplus = self.blocks - self.max_blocks + int(self.max_blocks * SHED_SHARE)
        for block in list(islice(self._holders, surplus)):
            if surplus <= 0:
                break
            for key in self.keys(self._holders.pop(block), len(self._keys)):
                del self._caches[key].hashes[block]
                self.blocks -= 1
                self.dropped += 1
                surplus -= 1

    def validate(self) -> None:
        for block, mask in self._holders.items():
            assert mask, "a block that nobody holds is forgotten"
            assert all(block in self._caches[key].hashes for key in self.keys(mask, len(self._keys)))
        # Each pair that one index has is in the other, and there are equally many.
        assert sum(mask.bit_count() for mask in self._holders.values()) == self.blocks <= self.max_blocks
        assert sum(len(cache.hashes) for cache in self._caches.values()) == self.blocks
        numbers = {cache.bit.bit_length() - 1: key for key, cache in self._caches.items()}
        assert numbers == {number: key for number, key in enumerate(self._keys) if key is not None}
        assert sorted([*numbers, *self._free]) == list(range(len(self._keys)))
