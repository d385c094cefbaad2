"""Pools: the least loaded decode worker, and what prefill workers announce of their queue."""

import pytest

from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import Heartbeat
from prfaas_scheduler.pools import HEARTBEAT_TIMEOUT_S, DecodePool, PrefillPool, Worker


def prefill_worker(name: str, **load: object) -> Worker:
    beat = Heartbeat(
        site="far",
        worker=name,
        role=Role.PREFILL,
        model="m",
        fingerprint="f",
        max_context_tokens=9000,
        **load,  # type: ignore[arg-type]
    )
    return Worker(beat, 0.0)


def test_a_busy_pool_stays_small_and_ordered() -> None:
    pool = DecodePool()
    workers = {}
    for name in ("d0", "d1", "d2"):
        beat = Heartbeat(
            site="home", worker=name, role=Role.DECODE, model="m", fingerprint="f", max_context_tokens=9000, slots=1000
        )
        workers[beat.key] = Worker(beat, 0.0, batch_limit=1000)
        pool.put(workers[beat.key])
    taken: list[str] = []
    for _ in range(300):
        worker = pool.least_loaded()
        worker.placed_requests += 1
        pool.put(worker)
        pool.validate(workers)
        taken.append(worker.beat.worker)
    assert taken == ["d0", "d1", "d2"] * 100


def test_of_unlike_workers_the_one_is_taken_whose_batch_is_the_emptiest_for_its_size() -> None:
    pool = DecodePool()
    for name, limit in (("large", 20), ("small", 5)):
        beat = Heartbeat(
            site="home", worker=name, role=Role.DECODE, model="m", fingerprint="f", max_context_tokens=9000, slots=64
        )
        pool.put(Worker(beat, 0.0, batch_limit=limit))
    taken: list[str] = []
    for _ in range(25):
        worker = pool.least_loaded()
        worker.placed_requests += 1
        pool.put(worker)
        taken.append(worker.beat.worker)
    assert taken.count("large") == 20 and taken.count("small") == 5
    assert taken[:5] == ["large"] * 4 + ["small"], "a request more is a twentieth of the one, a fifth of the other"


def test_the_pool_without_some_names_leaves_the_pool_itself_alone() -> None:
    pool = DecodePool()
    for name in ("d0", "d1"):
        beat = Heartbeat(site="home", worker=name, role=Role.DECODE, model="m", fingerprint="f", max_context_tokens=9000, slots=2)
        pool.put(Worker(beat, 0.0))
    assert pool.without(["d0"]).least_loaded().beat.worker == "d1"
    assert not pool.without(["d0", "d1"]) and len(pool) == 2


@pytest.mark.parametrize(
    ("loads", "queue_s"),
    [
        ([(0.0, 9.0), (4.0, 9.0)], 0.0),
        ([(2.0, 6.0), (4.0, 3.0)], (2.0 + 4.0 + 6.0) / 2),
        ([(3.0, 0.0)], 3.0),
    ],
)
def test_the_announced_wait_is_the_work_left_per_worker_and_nothing_while_one_is_idle(
    loads: list[tuple[float, float]], queue_s: float
) -> None:
    pool = PrefillPool()
    for index, (busy_s, queued_s) in enumerate(loads):
        pool.add(prefill_worker(f"p{index}", busy_s=busy_s, queued_s=queued_s))
    assert pool.queue_s == queue_s


def test_the_curve_is_of_workers_that_would_do_as_much_as_those_of_the_pool() -> None:
    pool = PrefillPool()
    pool.add(prefill_worker("new"))
    assert not pool.prefill_points
    for name, seconds in (("p0", 1.0), ("p1", 2.0)):
        pool.add(prefill_worker(name, prefill_points=((100.0, seconds),)))
    assert pool.prefill_points[0][1] == pytest.approx(2 / (1 / 1.0 + 1 / 2.0))
    pool.drop("far.prefill.p0")
    assert pool.prefill_points == ((100.0, 2.0),)
    pool.drop("far.prefill.p1")
    pool.add(prefill_worker("p1", prefill_points=((100.0, 2.0),)))
    assert pool.prefill_points == ((100.0, 2.0),), "a beat changes nothing that it does not say"
    pool.add(prefill_worker("p1"))
    assert not pool.prefill_points, "a new process has observed nothing"


def test_a_worker_is_silent_after_some_missed_beats() -> None:
    worker = prefill_worker("p0")
    assert not worker.is_silent(HEARTBEAT_TIMEOUT_S) and worker.is_silent(HEARTBEAT_TIMEOUT_S + 0.1)
