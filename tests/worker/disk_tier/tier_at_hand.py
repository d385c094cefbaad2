"""A pool with a tier on disk beneath it, whose KV says which prefix it belongs to."""

import threading
from collections.abc import Sequence
from pathlib import Path

from prfaas.kvcache.block import Part
from prfaas.kvcache.block_pool import ComputeTime, Tier
from prfaas.kvcache.layout import KVLayout, KVPiece, LayerKind, LayerRange, LayerSpec
from prfaas.kvcache.pinned_prefix import PinnedPrefix
from prfaas.kvcache.prefix_cache import PrefixCache
from prfaas.worker.disk_tier.tier import DiskTier

FULL = LayerSpec(kind=LayerKind.FULL, kv_heads=1, head_dim=1)
DENSE = KVLayout(dtype="bfloat16", layers=(FULL,))
HYBRID = KVLayout(dtype="bfloat16", layers=(FULL, LayerSpec(kind=LayerKind.RECURRENT, state_bytes=1)))
KEY = b"k" * 32
BLOCK_BYTES = 100
FILE_BYTES = 400
"""More than a file of one block has."""


def piece(token_ids: Sequence[int], layer: int) -> Part:
    """Content that says which prefix it belongs to."""
    content = bytes([layer, *token_ids]).ljust(BLOCK_BYTES, b"\0")
    return Part.of([KVPiece(LayerRange(layer, 0, len(token_ids)), memoryview(content), memoryview(b""))])


class Worker:
    """A pool with a tier beneath it, and prompts in blocks of one token."""

    def __init__(
        self,
        directory: Path,
        *,
        memory_blocks: int = 100,
        disk_blocks: int = 100,
        spacing: int = 0,
        queue_bytes: int = 1 << 20,
        fingerprint: str = "model",
        compute_s: ComputeTime | None = None,
    ) -> None:
        self.layout = HYBRID if spacing else DENSE
        compute = compute_s or (lambda start, end: float(end - start))
        self.cache = PrefixCache(1, memory_blocks * BLOCK_BYTES, KEY, checkpoint_spacing=spacing, compute_s=compute)
        self.tier = self.cache.lower = DiskTier(
            directory,
            disk_blocks * FILE_BYTES,
            fingerprint,
            block_tokens=1,
            checkpoint_spacing=spacing,
            compute_s=compute,
            queue_bytes=queue_bytes,
        )
        self.held: dict[int, Tier] = {}

    def serve(self, token_ids: Sequence[int]) -> int:
        """Prefills a prompt. Returns the tokens that were not computed, all of whose KV it checks."""
        with self.cache.pin(token_ids) as prefix:
            self.check(prefix, token_ids)
            for end in range(prefix.tokens + 1, len(token_ids) + 1):
                layers = {part.layer for part in prefix.kept_ranges(self.layout, end - 1, end)}
                block, checkpoint = (piece(token_ids[:end], layer) if layer in layers else None for layer in (0, 1))
                prefix.append(block, checkpoint)
        self.read_tokens = prefix.read_back.tokens
        self.hear()
        return prefix.cached_tokens

    def look(self, token_ids: Sequence[int]) -> int:
        """Returns the tokens that would not be computed."""
        with self.cache.pin(token_ids) as prefix:
            self.check(prefix, token_ids)
            return prefix.cached_tokens

    def check(self, prefix: PinnedPrefix, token_ids: Sequence[int]) -> None:
        loaded = {(each.range.layer, each.range.end): bytes(each.keys) for each in prefix.loaded()}
        expected = {(0, end): bytes(piece(token_ids[:end], 0).pieces[0].keys) for end in range(1, prefix.tokens + 1)}
        if self.cache.checkpoint_spacing and prefix.tokens:
            expected[1, prefix.tokens] = bytes(piece(token_ids[: prefix.tokens], 1).pieces[0].keys)
        assert loaded == expected

    def hear(self) -> None:
        """Takes what would be announced."""
        self.cache.validate()
        stored, removed = self.cache.take_changes()
        assert not self.held.items() & stored.items() and self.held.keys() >= set(removed)
        for hash in removed:
            del self.held[hash]
        self.held.update(stored)
        assert self.held == {hash: self.cache.tier(hash) for hash in self.held}

    def written(self) -> None:
        """Waits until the queue is empty."""
        done = threading.Event()
        self.tier._writer._jobs.put(Signal(done))  # type: ignore[arg-type]
        assert done.wait(60.0)
        self.hear()

    def close(self) -> None:
        self.tier.close(60.0)

    def files(self) -> list[Path]:
        return sorted(path for path in self.tier._folder.path.iterdir())


class Signal:
    """A deletion that says when its turn has come."""

    def __init__(self, done: threading.Event) -> None:
        self._done = done

    def unlink(self, *, missing_ok: bool) -> None:
        self._done.set()
