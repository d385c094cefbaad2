"""Simulated caches are the workers' own: bounded by bytes, states charged, and every change told."""

import random
from collections.abc import Sequence

import hypothesis.strategies as st
from hypothesis import given

from load.simulate.cache import Kept, WorkerCache, kept_by
from prfaas.capacity.builtin import builtin_profile
from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import BlocksChanged
from prfaas.kvcache.block import Part
from prfaas.kvcache.blocks import unpack_hashes
from prfaas.kvcache.prefix_cache import PrefixCache
from tests.engine.emulated_at_hand import engine

H20 = builtin_profile("paper-1t-h20")
SMALL = Kept(512, Part((), 1), Part((), 2), 16, None)
"""A checkpoint weighs two blocks, and one is kept after every block that has room."""


def prefill(cache: WorkerCache, blocks: Sequence[int]) -> BlocksChanged | None:
    prefix = cache.pin(blocks)
    return None if prefix is None else cache.release(prefix, len(blocks))


@given(st.lists(st.lists(st.integers(0, 2), max_size=4), max_size=30), st.integers(0, 12))
def test_every_change_of_where_a_prompt_can_be_resumed_is_told(prompts: list[list[int]], capacity_bytes: int) -> None:
    cache, told, sequence = WorkerCache("home", "p0", Role.PREFILL, SMALL, capacity_bytes), set[int](), 0
    for prompt in prompts:
        # A block's name stands for all before it too.
        blocks = [sum((token + 1) * 4**at for at, token in enumerate(prompt[:end])) for end in range(1, len(prompt) + 1)]
        changed = prefill(cache, blocks)
        if changed is not None:
            sequence += 1
            assert changed.sequence == sequence
            stored, removed = set(unpack_hashes(changed.stored)), set(unpack_hashes(changed.removed))
            assert not stored & told and removed <= told
            told = (told | stored) - removed
        cache.pool.validate()
        assert cache.cached(blocks) == max((count for count, block in enumerate(blocks, 1) if block in told), default=0)
        assert cache.pool.pinned == 0


def test_states_take_the_machines_memory() -> None:
    """Each prompt of 21 blocks leaves one state that weighs as much as they do, so half as many fit as by full layers alone."""
    full, kept = (kept_by(role, H20, 512) for role in (Role.DECODE, Role.PREFILL))
    assert 20.5 < kept.checkpoint.size_bytes / kept.block.size_bytes < 21.5
    capacity_bytes = 100 * 21 * full.block.size_bytes
    fits = {}
    for role in (Role.DECODE, Role.PREFILL):
        cache = WorkerCache("home", "w0", role, kept_by(role, H20, 512), capacity_bytes)
        prompts = [list(range(1 + 21 * number, 22 + 21 * number)) for number in range(100)]
        for blocks in prompts:
            prefill(cache, blocks)
        fits[role] = sum(cache.cached(blocks) == 21 for blocks in prompts)
    assert fits[Role.DECODE] == 100 and 47 <= fits[Role.PREFILL] <= 50


def test_it_finds_what_the_emulated_engine_would_find() -> None:
    target = engine(chunk_tokens=64, byte_scale=6000.0, token_scale=32.0)
    kept, source = kept_by(Role.PREFILL, H20, 2048), random.Random(1)
    histories: list[list[int]] = [[]]

    def scaled_compute_s(start: int, end: int) -> float:
        return H20.prefill_s(end * 32) - H20.prefill_s(start * 32)

    # As many bytes as 40 blocks and 6 states take: prompts push one another out.
    bytes_of = 40.5 * kept.block.size_bytes + 6 * kept.checkpoint.size_bytes
    simulated = WorkerCache("home", "p0", Role.PREFILL, kept, round(bytes_of))
    live = PrefixCache.for_model(target.layout, 64, round(bytes_of / 6000), compute_s=scaled_compute_s)
    found = []
    for _ in range(80):
        turns = [*source.choice(histories), *(source.randrange(256) for _ in range(source.randint(1, 4)))]
        histories.append(turns)
        blocks = [hash(tuple(turns[:end])) & (1 << 62) - 1 for end in range(1, len(turns) + 1)]
        token_ids = [token for token in turns for _ in range(64)]
        with live.pin(token_ids) as prefix:
            found.append((prefix.cached_tokens // 64, simulated.cached(blocks)))
            target.prefill(token_ids, lambda piece: None, lambda: False, prefix=prefix)
        prefill(simulated, blocks)
    assert [theirs for theirs, _ in found] == [ours for _, ours in found]
    assert any(ours for _, ours in found) and live.evicted_bytes


def test_a_decode_workers_blocks_of_one_prefill_site_are_of_no_use_to_another() -> None:
    cache = WorkerCache("home", "d0", Role.DECODE, kept_by(Role.DECODE, H20, 512), 10**12)
    cache.keep([1, 2, 3], "far")
    assert [cache.served([1, 2, 3], site) for site in ("far", "home", "other")] == [3, 0, 0]
    cache.keep([1, 2, 3, 4], "home")
    assert [cache.served([1, 2, 3, 4], site) for site in ("far", "home", "other")] == [4, 4, 4]


def test_a_machine_without_memory_for_it_keeps_nothing() -> None:
    cache = WorkerCache("home", "d0", Role.DECODE, kept_by(Role.DECODE, H20, 512), 0)
    assert (prefill(cache, [1, 2]), cache.keep([1, 2], "home"), cache.served([1, 2], "home"), cache.cached([1, 2])) == (
        None, None, 0, 0,
    )  # fmt: skip
