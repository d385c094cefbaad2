"""Directory of cached blocks by worker, as workers announce them: longest cached prefixes, among millions of blocks.

A block's hash covers everything before it, and caches give up the end of a prefix before its beginning. So the deepest block of a
prompt that a worker holds says how long its cached prefix is, and nothing else about the chain has to be known: not even that the
blocks before it are still listed here. Workers are bits of an integer: what a whole site holds is one operation away.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from prfaas.contracts.to_scheduler import BlocksChanged, BlocksHeld
from prfaas.kvcache.blocks import is_flagged, unpack_hashes

MAX_BLOCKS = 2_000_000
"""Most pairs of worker and block that are kept: about 130 bytes each."""
SHED_SHARE = 1 / 256
"""Share of the maximum that is dropped at once when it is exceeded: finding the oldest costs a walk over those dropped before."""
FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 300.0
"""Pauses between two questions to a worker whose cache is not known for certain; doubled each time."""


class Level(NamedTuple):
    """Workers that have the same number of a prompt's blocks."""

    blocks: int
    workers: int
    """Bitmask of these workers."""
    on_disk: int = 0
    """Bitmask of those among them that have to read some of it from disk."""


@dataclass(slots=True)
class _Cache:
    """One worker's cache, as far as it is known."""

    bit: int
    incarnation: str | None = None
    sequence: int = 0
    certain: bool = False
    """No announcement was missed."""
    ask_at: float = 0.0
    pause_s: float = FIRST_PAUSE_S
    hashes: dict[int, None] = field(default_factory=dict)


class BlockDirectory:
    """Tracks joined workers only; announcements of others are ignored. Methods that return a bool say whether to ask the worker
    for all that it holds (BlocksHeld): after a gap in its numbers, a new incarnation, or while nothing is known."""

    def __init__(self, max_blocks: int = MAX_BLOCKS) -> None:
        self.max_blocks = max_blocks
        self.dropped = 0
        """Count of pairs of worker and block that were dropped to stay within the maximum."""
        self.blocks = 0
        """Count of pairs of worker and block."""
        self._caches: dict[str, _Cache] = {}
        self._keys: list[str | None] = []
        """Bit number -> worker; None while the bit is free."""
        self._free: list[int] = []
        """Free bit numbers, of workers that left."""
        self._holders: dict[int, int] = {}
        """Block hash -> bitmask of its holders, the oldest hash first."""
        self._on_disk: dict[int, int] = {}
        """Block hash -> bitmask of those of its holders that have it on disk."""

    # ---- announcements

    def join(self, key: str, incarnation: str = "") -> int:
        """Adds a worker. Returns its bit, the same one until it leaves.

        Forgets what an earlier incarnation held, but not what this one has announced already."""
        cache = self._caches.get(key)
        if cache is None:
            if self._free:
                number = self._free.pop()
                self._keys[number] = key
            else:
                number = len(self._keys)
                self._keys.append(key)
            cache = self._caches[key] = _Cache(1 << number)
        elif incarnation and cache.incarnation not in (None, incarnation):
            self._restart(cache, incarnation)
            cache.certain, cache.ask_at, cache.pause_s = False, 0.0, FIRST_PAUSE_S
        return cache.bit

    def leave(self, key: str) -> None:
        cache = self._caches.pop(key, None)
        if cache is not None:
            self._remove(cache, list(cache.hashes))
            number = cache.bit.bit_length() - 1
            self._keys[number] = None
            self._free.append(number)

    def needs_list(self, key: str, now_s: float) -> bool:
        """True if the worker, which just gave a sign of life, is to be asked for all that it holds."""
        cache = self._caches.get(key)
        if cache is None or cache.certain or now_s < cache.ask_at:
            return False
        cache.ask_at = now_s + cache.pause_s
        cache.pause_s = min(2 * cache.pause_s, MAX_PAUSE_S)
        return True

    def apply(self, key: str, changed: BlocksChanged, now_s: float) -> bool:
        """Applies an announcement; an old one that comes late changes nothing. Raises ValueError for hashes that are none."""
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
        self._store(cache, stored, changed.on_disk)
        return self.needs_list(key, now_s)

    def replace(self, key: str, held: BlocksHeld) -> None:
        """Replaces what is known by a worker's full list. A list that newer announcements have overtaken is ignored, and the
        worker is asked again. Raises ValueError for hashes that are none."""
        hashes = unpack_hashes(held.hashes)
        cache = self._caches.get(key)
        if cache is None or (held.incarnation == cache.incarnation and held.sequence < cache.sequence):
            return
        self._restart(cache, held.incarnation)
        cache.sequence, cache.certain, cache.pause_s = held.sequence, True, FIRST_PAUSE_S
        self._store(cache, hashes, held.on_disk)

    # ---- queries

    def find(self, hashes: Sequence[int]) -> list[Level]:
        """Levels of the longest cached prefixes, the longest first; each worker is in one level at most."""
        holders, found = self._holders, []
        seen = last = 0
        for blocks in range(len(hashes) if holders else 0, 0, -1):
            mask = holders.get(hashes[blocks - 1], 0)
            if mask != last and (new := mask & ~seen):
                found.append(Level(blocks, new, self._on_disk.get(hashes[blocks - 1], 0) & new))
                seen |= new
            last = mask
        return found

    def keys(self, workers: int, limit: int) -> Iterator[str]:
        """Keys of the workers of a bitmask, the first `limit` of them."""
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

    def _store(self, cache: _Cache, hashes: Iterable[int], on_disk: bytes) -> None:
        bit, own, holders = cache.bit, cache.hashes, self._holders
        for index, block in enumerate(hashes):
            if block not in own:
                own[block] = None
                self.blocks += 1
                mask = holders.get(block)
                holders[block] = bit if mask is None else mask | bit  # `bit` itself: most blocks have one holder
            elif block in self._on_disk:
                self._leave_disk(block, bit)
            if on_disk and is_flagged(on_disk, index):
                self._on_disk[block] = self._on_disk.get(block, 0) | bit
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
                if block in self._on_disk:
                    self._leave_disk(block, bit)

    def _leave_disk(self, block: int, bit: int) -> None:
        left = self._on_disk[block] & ~bit
        if left:
            self._on_disk[block] = left
        else:
            del self._on_disk[block]

    def _shed(self) -> None:
        """Drops the hashes that were announced first. Their holders are not asked for them again."""
        surplus = self.blocks - self.max_blocks + int(self.max_blocks * SHED_SHARE)
        for block in list(islice(self._holders, surplus)):
            if surplus <= 0:
                break
            self._on_disk.pop(block, None)
            for key in self.keys(self._holders.pop(block), len(self._keys)):
                del self._caches[key].hashes[block]
                self.blocks -= 1
                self.dropped += 1
                surplus -= 1

    def validate(self) -> None:
        for block, mask in self._holders.items():
            assert mask, "a block without a holder is dropped"
            assert all(block in self._caches[key].hashes for key in self.keys(mask, len(self._keys)))
        for block, mask in self._on_disk.items():
            assert mask and mask & self._holders.get(block, 0) == mask, "who has it on disk has it"
        # Each pair that one index has is in the other, and there are equally many.
        assert sum(mask.bit_count() for mask in self._holders.values()) == self.blocks <= self.max_blocks
        assert sum(len(cache.hashes) for cache in self._caches.values()) == self.blocks
        numbers = {cache.bit.bit_length() - 1: key for key, cache in self._caches.items()}
        assert numbers == {number: key for number, key in enumerate(self._keys) if key is not None}
        assert sorted([*numbers, *self._free]) == list(range(len(self._keys)))
