"""Prefix caches of simulated workers: the workers' own pool, with the size of KV in place of KV, and its announcements."""

from array import array
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from prfaas.capacity.profiles import Profile
from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import BlocksChanged
from prfaas.engine.emulated_model import EMULATED_MODELS
from prfaas.kvcache.block import Part
from prfaas.kvcache.block_pool import ComputeTime
from prfaas.kvcache.checkpoints import checkpoint_spacing
from prfaas.kvcache.pinned_prefix import PinnedPrefix
from prfaas.kvcache.prefix_cache import PrefixCache

MODEL = "emulated-1t"
"""Model whose layers a profile's S_kv(l) is dealt to, as in the emulated engine."""


class NamedBlocks(NamedTuple):
    """Blocks of a prompt whose names each stand for all tokens up to their end, as in traces. Nothing else has to prove them."""

    hashes: Sequence[int]

    def proof(self, index: int) -> bytes:
        return b""

    def lower_proofs(self) -> list[bytes]:
        return []


class Kept(NamedTuple):
    """Sizes of the KV that a worker keeps. Tokens are the profile's."""

    block_tokens: int
    block: Part
    checkpoint: Part
    """Windows and states at one block's end."""
    spacing: int
    """Number of blocks between two regular checkpoints; 0: there are none."""
    compute_s: ComputeTime | None


@lru_cache(maxsize=64)
def kept_by(role: Role, profile: Profile, block_tokens: int) -> Kept:
    """Prefill workers keep all layers, decode workers full ones only."""
    layout = EMULATED_MODELS[MODEL].layout(profile, byte_scale=1.0, token_scale=1.0)
    block = Part((), sum(layout.range_bytes(part) for part in layout.block_ranges(0, block_tokens)))
    checkpoint = Part((), sum(layout.range_bytes(part) for part in layout.checkpoint_ranges(block_tokens)))
    if role is Role.DECODE:
        return Kept(block_tokens, block, Part((), 0), 0, None)

    def compute_s(start: int, end: int) -> float:
        return profile.prefill_s(end) - profile.prefill_s(start)

    return Kept(block_tokens, block, checkpoint, checkpoint_spacing(layout, block_tokens), compute_s)


class WorkerCache:
    def __init__(self, site: str, worker: str, role: Role, kept: Kept, capacity_bytes: int) -> None:
        """`capacity_bytes`: of the machine's memory; 0 keeps nothing."""
        self.pool = PrefixCache(kept.block_tokens, capacity_bytes, checkpoint_spacing=kept.spacing, compute_s=kept.compute_s)
        self._kept = kept
        self._site, self._worker, self._role = site, worker, role
        self._sequence = 0

    def cached(self, blocks: Sequence[int]) -> int:
        """Number of a prompt's first blocks after which it can be resumed. No use is counted."""
        if len(self.pool):
            for count in range(len(blocks), 0, -1):
                if self.pool.tier(blocks[count - 1]) is not None:
                    return count
        return 0

    def pin(self, blocks: Sequence[int]) -> PinnedPrefix | None:
        """Takes the prompt's cached prefix into use, until it is given to `release`; None where there is nothing to keep."""
        return self.pool.pin_blocks(NamedBlocks(blocks)) if blocks and self.pool.capacity_bytes else None

    def release(self, prefix: PinnedPrefix, computed_blocks: int) -> BlocksChanged | None:
        """Takes in the prompt's blocks up to those that were computed. Returns the announcement; None when nothing changed."""
        with prefix:
            self._extend(prefix, computed_blocks, "")
        return self._changes()

    def held(self, blocks: Sequence[int]) -> PinnedPrefix | None:
        """Returns the prefix in use, until it is left, if all is here that another worker needs to go on behind it, each block
        made here."""
        prefix = self.pool.pin_blocks(NamedBlocks(blocks), {""})
        if blocks and len(prefix.blocks) == len(blocks):
            return prefix
        with prefix:
            return None

    def pulled_bytes(self, blocks: int) -> int:
        """Size of a number of blocks and of what a prefill needs beside to go on behind them."""
        return blocks * self._kept.block.size_bytes + self._kept.checkpoint.size_bytes

    def take(self, blocks: Sequence[int], maker: str) -> BlocksChanged | None:
        """Takes in a prefix that came from another worker, as live ones do. `maker`: its site, if it is another one. Returns the
        announcement, or None."""
        with self.pool.pin_blocks(NamedBlocks(blocks)) as prefix:
            for index in range(prefix.tokens // self._kept.block_tokens, len(blocks)):
                if not prefix.append(self._kept.block, self._kept.checkpoint if index + 1 == len(blocks) else None, maker):
                    break
        return self._changes()

    def served(self, blocks: Sequence[int], site: str) -> int:
        """Counts a use of the prompt's cached blocks, as a decode worker does. Returns the number of those that are of use to a
        prefill in `site`: its own and those of the worker's own site."""
        if not blocks or not self.pool.capacity_bytes:
            return 0
        with self.pool.pin_blocks(NamedBlocks(blocks), {self._site, site}) as prefix:
            return len(prefix.blocks)

    def keep(self, blocks: Sequence[int], site: str) -> BlocksChanged | None:
        """Takes in a verified prompt that `site` prefilled, as a decode worker does. Returns the announcement, or None."""
        if not blocks or not self.pool.capacity_bytes:
            return None
        with self.pool.pin_blocks(NamedBlocks(blocks)) as prefix:
            if site == self._site:
                for block in prefix.blocks:
                    block.maker = site
            self._extend(prefix, len(blocks), site)
        return self._changes()

    def _extend(self, prefix: PinnedPrefix, count: int, maker: str) -> None:
        block, checkpoint = self._kept.block, self._kept.checkpoint
        for _ in range(prefix.tokens // self._kept.block_tokens, count):
            if not prefix.append(block, checkpoint if checkpoint.size_bytes and prefix.wants_checkpoint else None, maker):
                break

    def _changes(self) -> BlocksChanged | None:
        changes = self.pool.take_changes()
        if not changes.stored and not changes.removed:
            return None
        self._sequence += 1
        return BlocksChanged(
            site=self._site,
            worker=self._worker,
            role=self._role,
            incarnation="simulated",
            sequence=self._sequence,
            stored=bytes(array("Q", changes.stored)),
            removed=bytes(array("Q", changes.removed)),
        )
