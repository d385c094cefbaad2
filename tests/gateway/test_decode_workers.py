"""Losses of decode workers: of silent ones, and of those whose name another process has."""

import hypothesis.strategies as st
from hypothesis import given

from prfaas.bus.presence import TTL_S
from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import Heartbeat
from prfaas_gateway.decode_workers import SUPERSEDED_AFTER_S, DecodeWorker, DecodeWorkers

GRACE_S = 5.0
OLD, NEW = DecodeWorker("d0", "old"), DecodeWorker("d0", "new")


def beat(worker: DecodeWorker) -> Heartbeat:
    return Heartbeat(
        site="home",
        worker=worker.name,
        incarnation=worker.incarnation,
        role=Role.DECODE,
        model="m",
        fingerprint="f",
        max_context_tokens=100,
    )


def hear(workers: DecodeWorkers, worker: DecodeWorker, now_s: float) -> None:
    workers.handle_beat(beat(worker).key, beat(worker), now_s)


def test_a_silent_worker_is_lost_after_its_grace_unless_it_beats_again() -> None:
    workers = DecodeWorkers("home", GRACE_S)
    hear(workers, OLD, 0.0)
    assert workers.next_lost_at() is None
    workers.handle_beat("home.decode.d0", None, 4.0)
    assert workers.unserved(["m"]) == ["m"] and workers.next_lost_at() == 4.0 + GRACE_S
    hear(workers, OLD, 8.0)
    assert workers.unserved(["m"]) == [] and workers.next_lost_at() is None
    workers.handle_beat("home.decode.d0", None, 12.0)
    assert workers.take_lost(16.9) == [] and workers.take_lost(17.0) == [OLD]
    assert workers.take_lost(99.0) == []


def test_a_worker_that_comes_back_as_another_process_is_lost_at_once() -> None:
    workers = DecodeWorkers("home", GRACE_S)
    hear(workers, OLD, 0.0)
    hear(workers, NEW, SUPERSEDED_AFTER_S)
    assert workers.take_lost(SUPERSEDED_AFTER_S) == [OLD]
    hear(workers, OLD, 10.0)
    hear(workers, NEW, 10.5)
    assert workers.next_lost_at() == 10.0 + SUPERSEDED_AFTER_S, "it may have a twin: it was heard just now"


def test_two_processes_under_one_name_lose_nothing_while_both_beat() -> None:
    workers = DecodeWorkers("home", GRACE_S)
    for second in range(20):
        hear(workers, OLD, second)
        hear(workers, NEW, second + 0.5)
        assert workers.take_lost(second + 0.9) == []


def test_an_acceptance_is_a_sign_of_life_of_a_worker_that_has_not_beaten_yet() -> None:
    workers = DecodeWorkers("home", GRACE_S)
    workers.handle_acceptance(NEW, 0.0)
    assert workers.next_lost_at() == TTL_S + GRACE_S
    hear(workers, NEW, 1.0)
    assert workers.next_lost_at() is None
    workers.handle_acceptance(OLD, 2.0)
    assert workers.take_lost(2.0 + TTL_S + GRACE_S) == [OLD]


def test_a_worker_that_was_lost_by_other_signs_is_no_other_one_until_it_beats_again() -> None:
    other = DecodeWorker("d1", "only")
    workers = DecodeWorkers("home", GRACE_S)
    hear(workers, OLD, 0.0)
    hear(workers, other, 0.0)
    workers.lose(other, 0.5)
    assert workers.take_lost(0.5) == [other]
    workers.validate()
    assert not workers.has_other(OLD.name, 0.5) and workers.has_other(other.name, 0.5)
    hear(workers, other, 1.0)
    workers.validate()
    assert workers.has_other(OLD.name, 1.0)


def test_heartbeats_of_others_mean_nothing() -> None:
    workers = DecodeWorkers("home", GRACE_S)
    for key in ("home.prefill.d0", "far.decode.d0", "home.decode.", "x"):
        workers.handle_beat(key, beat(OLD), 0.0)
    assert workers.unserved(["m"]) == ["m"] and workers.next_lost_at() is None


@given(
    st.lists(
        st.tuples(
            st.floats(0, 3), st.sampled_from(["beat", "accept", "gone"]), st.sampled_from(["d0", "d1"]), st.sampled_from("ab")
        ),
        max_size=40,
    )
)
def test_each_worker_that_falls_silent_is_lost_once_and_a_beating_one_never(steps: list[tuple[float, str, str, str]]) -> None:
    workers = DecodeWorkers("home", GRACE_S)
    now_s, heard_at = 0.0, dict[DecodeWorker, float]()
    for after_s, what, name, incarnation in steps:
        now_s += after_s
        worker = DecodeWorker(name, incarnation)
        if what == "gone":
            workers.handle_beat(f"home.decode.{name}", None, now_s)
        else:
            heard_at[worker] = now_s
            if what == "beat":
                hear(workers, worker, now_s)
            else:
                workers.handle_acceptance(worker, now_s)
        for lost in workers.take_lost(now_s):
            assert now_s - heard_at.pop(lost) >= SUPERSEDED_AFTER_S
        workers.validate()
    for name in ("d0", "d1"):
        workers.handle_beat(f"home.decode.{name}", None, now_s)
    assert set(workers.take_lost(now_s + 100.0)) == set(heard_at) and workers.next_lost_at() is None
