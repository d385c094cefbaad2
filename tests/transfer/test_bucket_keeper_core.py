"""Orphans are purged in time, and what counts as leaked is told from what is young."""

from hypothesis import given
from hypothesis import strategies as st

from prfaas.transfer.bucket_keeper_core import BucketKeeperCore, BucketState, Looked, Purge, Purged

GRACE_S = 10.0
FRAME_BYTES = 1000
SUBJECTS = st.sampled_from(["a", "b", "c"])


def state(frames: dict[str, int], receivers: set[str] | None = None) -> BucketState:
    messages = sum(frames.values())
    return BucketState(frames, {}, frozenset(receivers or ()), messages, FRAME_BYTES * messages)


def look(core: BucketKeeperCore, frames: dict[str, int], now_s: float) -> list[str]:
    """Subjects to purge, when nothing is read."""
    orders = core.handle(Looked(state(frames), now_s))
    core.validate()
    return [order.subject for order in orders]


@given(st.lists(st.tuples(st.sets(SUBJECTS), st.sets(SUBJECTS), st.floats(0.1, 6))))
def test_only_what_was_orphaned_for_the_whole_grace_is_purged(looks: list[tuple[set[str], set[str], float]]) -> None:
    core, now_s = BucketKeeperCore(GRACE_S), 0.0
    orphan_since: dict[str, float] = {}
    for stored, read, seconds in looks:
        now_s += seconds
        purge = core.handle(Looked(state(dict.fromkeys(stored, 1), read), now_s))
        core.validate()
        orphan_since = {subject: orphan_since.get(subject, now_s) for subject in stored - read}
        assert set(purge) == {Purge(subject) for subject, since in orphan_since.items() if now_s - since >= GRACE_S}


def test_a_meta_message_goes_with_its_frames() -> None:
    core = BucketKeeperCore(grace_s=0.0)
    seen = BucketState({"a": 3, "b": 3}, {"meta a": "a", "meta b": "b"}, frozenset({"b"}), 8, 8 * FRAME_BYTES)
    assert core.handle(Looked(seen, 0.0)) == [Purge("a"), Purge("meta a")]


def test_a_frame_that_comes_late_has_a_grace_of_its_own_and_is_no_leak() -> None:
    core = BucketKeeperCore(GRACE_S)
    assert look(core, {"a": 5}, 0.0) == []
    assert look(core, {"a": 8}, GRACE_S) == ["a"], "a sender that goes on does not prolong the grace"
    core.handle(Purged("a", 8))
    assert core.leaked_bytes == 0
    assert look(core, {"a": 1}, GRACE_S + 0.1) == []
    assert core.leaked_bytes == 0 and core.stored_bytes == FRAME_BYTES
    assert look(core, {"a": 1}, 2 * GRACE_S) == []
    assert look(core, {"a": 1}, 2 * GRACE_S + 0.1) == ["a"]
    assert core.reclaimed_messages == 8


def test_one_late_frame_after_one_is_no_leak_either() -> None:
    core = BucketKeeperCore(GRACE_S)
    look(core, {"a": 1}, 0.0)
    assert look(core, {"a": 1}, GRACE_S) == ["a"]
    core.handle(Purged("a", 1))
    assert look(core, {"a": 1}, GRACE_S + 0.1) == [] and core.leaked_bytes == 0


def test_what_another_worker_has_purged_is_no_leak_here() -> None:
    core = BucketKeeperCore(GRACE_S)
    look(core, {"a": 5}, 0.0)
    assert look(core, {"a": 5}, GRACE_S) == ["a"]
    core.handle(Purged("a", 0))
    assert look(core, {"a": 2}, GRACE_S + 0.1) == [] and core.leaked_bytes == 0


def test_what_a_purge_leaves_behind_is_leaked_until_it_is_gone() -> None:
    core = BucketKeeperCore(GRACE_S)
    look(core, {"a": 5, "b": 5}, 0.0)
    assert look(core, {"a": 5, "b": 5}, GRACE_S) == ["a", "b"]
    core.handle(Purged("a", 0))
    core.handle(Purged("b", 5))
    assert look(core, {"a": 5}, GRACE_S + 0.1) == ["a"]
    assert core.leaked_bytes == 5 * FRAME_BYTES
    core.handle(Purged("a", 5))
    assert core.leaked_bytes == 0
    assert look(core, {}, GRACE_S + 0.2) == [] and core.leaked_bytes == 0
