"""Losses of decode workers: of silent ones, and of those whose name another process has."""

import hypothesis.strategies as st
from hypothesis import given

from prfaas.bus.presence import TTL_S
from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import Heartbeat
from prfaas_gateway.decode_workers import FRESH_S, SUPERSEDED_AFTER_S, DecodeWorker, DecodeWorkers

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


def hear_another(workers: DecodeWorkers, now_s: float) -> None:
    """Shows that the site's server brings heartbeats."""
    workers.handle_beat("home.prefill.p0", beat(OLD), now_s)


def test_a_silent_worker_is_lost_after_its_grace_unless_it_beats_again() -> None:
    workers = DecodeWorkers("home", GRACE_S)
    hear(workers, OLD, 0.0)
    assert workers.next_lost_at() is None
    workers.handle_beat("home.decode.d0", None, 4.0)
    assert workers.unserved(["m"]) == ["m"] and workers.next_lost_at() == 4.0 + GRACE_S
    hear(workers, OLD, 8.0)
    assert workers.unserved(["m"]) == [] and workers.next_lost_at() is None
    workers.handle_beat("home.decode.d0", None, 12.0)
    hear_another(workers, 16.5)
    assert workers.take_lost(16.9) == [] and workers.take_lost(17.0) == [OLD]
    assert workers.take_lost(99.0) == []


def test_a_server_that_stands_still_loses_no_worker_and_one_that_does_not_beat_afterwards_is_lost_then() -> None:
    other = DecodeWorker("d1", "only")
    workers = DecodeWorkers("home", GRACE_S)
    for worker in (OLD, other):
        hear(workers, worker, 0.0)
        workers.handle_beat(beat(worker).key, None, 4.0)
    assert workers.take_lost(9.0) == [] and workers.next_lost_at() == 9.0 + FRESH_S
    assert workers.take_lost(30.0) == []
    workers.validate()
    hear(workers, other, 31.0)
    assert workers.take_lost(31.0) == [], "it has its time to beat"
    assert workers.take_lost(30.0 + FRESH_S) == [OLD]
    workers.lose(other, 60.0)
    assert workers.take_lost(60.0) == [other], "another sign than silence needs no server"
    workers.validate()


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
    hear_another(workers, 2.0 + TTL_S + GRACE_S)
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
    hear_another(workers, now_s + 100.0)
    assert set(workers.take_lost(now_s + 100.0)) == set(heard_at) and workers.next_lost_at() is None
