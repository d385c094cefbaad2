"""The directory of cached blocks says what a walk over all workers' caches would, whatever they announce in whatever order."""

from array import array
from collections.abc import Collection, Iterable

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import BlocksChanged, BlocksHeld
from prfaas.kvcache.blocks import pack_flags
from prfaas_scheduler.block_directory import FIRST_PAUSE_S, BlockDirectory, Level
from tests.budget import examples

WORKERS = st.sampled_from(["a", "b", "c"])
BLOCKS = st.lists(st.integers(1, 12), max_size=6, unique=True)


def packed(hashes: Iterable[int]) -> bytes:
    return bytes(array("Q", hashes))


def changed(
    sequence: int,
    stored: Iterable[int] = (),
    removed: Iterable[int] = (),
    *,
    incarnation: str = "i",
    worker: str = "a",
    on_disk: Collection[int] = (),
) -> BlocksChanged:
    stored = list(stored)
    return BlocksChanged(
        site="home",
        worker=worker,
        role=Role.PREFILL,
        incarnation=incarnation,
        sequence=sequence,
        stored=packed(stored),
        on_disk=pack_flags(block in on_disk for block in stored),
        removed=packed(removed),
    )


def held(sequence: int, hashes: Iterable[int], *, incarnation: str = "i", on_disk: Collection[int] = ()) -> BlocksHeld:
    hashes = list(hashes)
    flags = pack_flags(block in on_disk for block in hashes)
    return BlocksHeld(incarnation=incarnation, sequence=sequence, hashes=packed(hashes), on_disk=flags)


def prefixes(directory: BlockDirectory, chain: list[int]) -> dict[str, int]:
    return {key: level.blocks for level in directory.find(chain) for key in directory.keys(level.workers, 99)}


def test_the_longest_prefix_of_each_worker() -> None:
    directory = BlockDirectory()
    for key in "abc":
        directory.join(key)
    directory.apply("a", changed(1, [1, 2, 3]), 0.0)
    directory.apply("b", changed(1, [1]), 0.0)
    assert prefixes(directory, [1, 2, 3, 4]) == {"a": 3, "b": 1}
    assert directory.find([9, 8]) == []
    assert prefixes(directory, [1]) == {"a": 1, "b": 1}
    directory.leave("a")
    assert directory.find([1, 2, 3, 4]) == [Level(1, directory.join("b"))]
    directory.validate()


def test_who_missed_something_asks_and_asks_more_and_more_rarely() -> None:
    directory = BlockDirectory()
    directory.join("a")
    assert directory.needs_list("a", 0.0), "a new worker may hold anything"
    assert not directory.needs_list("a", 0.5 * FIRST_PAUSE_S)
    assert directory.apply("a", changed(5, [1]), FIRST_PAUSE_S), "it has announced four times before"
    assert not directory.apply("a", changed(6, [2]), 2 * FIRST_PAUSE_S)
    directory.replace("a", held(6, [1, 2, 3]))
    assert not directory.needs_list("a", 100.0)
    assert prefixes(directory, [1, 2, 3]) == {"a": 3}
    assert not directory.apply("a", changed(7, [], [3]), 100.0)
    assert directory.apply("a", changed(9, [4]), 101.0), "the eighth was lost"
    directory.replace("a", held(8, [1]))
    assert prefixes(directory, [1, 2, 3, 4]) == {"a": 4}, "an answer that is older than what is known is none"
    directory.replace("a", held(9, [1, 4]))
    assert prefixes(directory, [1, 2, 3]) == {"a": 1}
    directory.validate()


def test_a_new_incarnation_holds_nothing() -> None:
    directory = BlockDirectory()
    directory.join("a")
    assert not directory.apply("a", changed(1, [1, 2]), 0.0)
    assert not directory.apply("a", changed(1, [5], incarnation="j"), 1.0)
    assert prefixes(directory, [1, 2]) == {}
    assert directory.apply("a", changed(3, [6], incarnation="k"), 2.0), "its first two were lost"
    directory.validate()


def test_memory_is_bounded_and_the_oldest_goes() -> None:
    directory = BlockDirectory(max_blocks=1000)
    for number, key in enumerate("abcd"):
        directory.join(key)
        for sequence in range(1, 11):
            first = 10_000 * number + 100 * sequence
            directory.apply(key, changed(sequence, range(first, first + 100)), 0.0)
        directory.validate()
    assert directory.blocks + directory.dropped == 4000
    assert prefixes(directory, [30_950]) == {"d": 1} and not prefixes(directory, [150])


def test_hashes_that_are_none_are_refused() -> None:
    directory = BlockDirectory()
    directory.join("a")
    with pytest.raises(ValueError, match="8 bytes each"):
        directory.replace("a", BlocksHeld(incarnation="i", sequence=1, hashes=b"123"))


class Cache:
    """A worker's real cache and what of it has been announced."""

    def __init__(self, incarnation: str) -> None:
        self.incarnation, self.sequence = incarnation, 0
        self.blocks: set[int] = set()
        self.on_disk: set[int] = set()


class AnyOrder(RuleBasedStateMachine):
    """Messages get lost, workers restart, leave and come back; what a worker said after the last loss is known exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.directory, self.now_s = BlockDirectory(max_blocks=1000), 0.0
        self.real: dict[str, Cache] = {}
        self.exact: set[str] = set()
        self.count = 0

    @rule(key=WORKERS)
    def worker_comes(self, key: str) -> None:
        if key not in self.real:
            self.count += 1
            self.real[key] = Cache(str(self.count))
            self.directory.join(key)

    @rule(key=WORKERS)
    def worker_goes(self, key: str) -> None:
        self.real.pop(key, None)
        self.exact.discard(key)
        self.directory.leave(key)

    @rule(key=WORKERS)
    def worker_restarts(self, key: str) -> None:
        if key in self.real:
            self.count += 1
            self.real[key] = Cache(str(self.count))
            self.exact.discard(key)

    @rule(
        key=WORKERS,
        stored=BLOCKS,
        removed=BLOCKS,
        lost=st.sampled_from([False, False, True]),
        on_disk=st.sets(st.integers(1, 12)),
    )
    def worker_announces(self, key: str, stored: list[int], removed: list[int], lost: bool, on_disk: set[int]) -> None:
        if key not in self.real:
            self.directory.apply(key, changed(1, stored), self.now_s)
            return
        cache = self.real[key]
        cache.sequence += 1
        cache.blocks -= set(removed)
        cache.blocks |= set(stored)
        cache.on_disk = cache.on_disk - set(stored) - set(removed) | (on_disk & set(stored))
        if lost:
            self.exact.discard(key)
            return
        message = changed(cache.sequence, stored, set(removed) - set(stored), incarnation=cache.incarnation, on_disk=on_disk)
        self.now_s += 1000.0  # longer than any pause between questions
        asked = self.directory.apply(key, message, self.now_s)
        if cache.sequence == 1:
            self.exact.add(key)
        assert asked is (key not in self.exact)

    @rule(key=WORKERS)
    def worker_answers(self, key: str) -> None:
        if key in self.real:
            cache = self.real[key]
            self.directory.replace(key, held(cache.sequence, cache.blocks, incarnation=cache.incarnation, on_disk=cache.on_disk))
            self.exact.add(key)

    @invariant()
    def indexes_agree(self) -> None:
        self.directory.validate()

    @invariant()
    def prefixes_are_right(self) -> None:
        chain = list(range(1, 13))
        found = prefixes(self.directory, chain)
        for key in self.exact:
            assert found.get(key, 0) == max(
                (at for at, block in enumerate(chain, 1) if block in self.real[key].blocks), default=0
            )
        assert found.keys() <= self.real.keys()
        on_disk = {key for level in self.directory.find(chain) for key in self.directory.keys(level.on_disk, 99)}
        for key in self.exact & found.keys():
            assert (key in on_disk) is (chain[found[key] - 1] in self.real[key].on_disk)
        levels = [level.blocks for level in self.directory.find(chain)]
        assert levels == sorted(set(levels), reverse=True)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=examples(100), stateful_step_count=40, deadline=None)
