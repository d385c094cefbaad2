"""Curve of a pool, and the pace of each of its workers."""

import random

import pytest

from prfaas.capacity.observed import ObservedTimes
from prfaas_scheduler.speeds import Speeds

POINTS = ((1000.0, 1.0), (4000.0, 5.0), (16_000.0, 30.0))


def slower(factor: float) -> tuple[tuple[float, float], ...]:
    return tuple((tokens, seconds * factor) for tokens, seconds in POINTS)


def test_whoever_tells_last_changes_no_plan_for_the_others() -> None:
    speeds = Speeds()
    for worker, factor in (("a", 1.0), ("slow", 4.0), ("b", 1.0), ("fast", 0.5), ("slow", 4.0)):
        speeds.announced(worker, slower(factor))
    assert [speeds.pace(worker) for worker in ("a", "b", "slow", "fast", "unknown")] == [1.0, 1.0, 4.0, 0.5, 1.0]
    assert speeds.work_s(4000) == pytest.approx(5.0)
    assert dict(speeds.mean_points())[4000] == pytest.approx(5.0 * 4 / (1 + 1 + 1 / 4 + 2))
    speeds.gone("slow")
    speeds.gone("fast")
    assert dict(speeds.mean_points())[4000] == pytest.approx(5.0)


def test_a_worker_that_has_observed_one_length_is_compared_at_that_one() -> None:
    speeds = Speeds()
    speeds.announced("a", POINTS)
    speeds.announced("slow", ((1000.0, 2.0),))
    assert speeds.pace("slow") == 2.0
    assert speeds.work_s(16_000) == pytest.approx(30.0)


def test_a_length_that_nobody_has_observed_says_nothing_of_a_pace() -> None:
    speeds = Speeds()
    speeds.announced("a", ((1000.0, 1.0),))
    speeds.announced("b", ((1000.0, 1.0), (100_000.0, 500.0)))
    assert speeds.pace("b") == 1.0
    assert speeds.work_s(100_000) == pytest.approx(500.0)


def test_one_that_becomes_slow_has_another_pace_after_some_prefills_and_the_others_keep_theirs() -> None:
    speeds, chance = Speeds(), random.Random(1)
    observed = {worker: ObservedTimes() for worker in ("a", "b", "c", "d")}
    for number in range(400):
        worker = chance.choice("abcd")
        tokens, factor = chance.choice((1000, 4000, 16_000)), 3.0 if worker == "a" and number > 200 else 1.0
        observed[worker].observe(tokens, dict(POINTS)[tokens] * factor * chance.lognormvariate(0.0, 0.1))
        speeds.announced(worker, observed[worker].points())
    assert speeds.pace("a") == pytest.approx(3.0, rel=0.2)
    assert all(speeds.pace(worker) == 1.0 for worker in "bcd")
    assert [speeds.work_s(tokens) for tokens, _ in POINTS] == pytest.approx([seconds for _, seconds in POINTS], rel=0.2)


def test_a_pool_without_any_announcement_has_no_curve() -> None:
    speeds = Speeds()
    assert speeds.work_s(1000) is None and speeds.mean_points() == ()
    speeds.announced("a", POINTS)
    speeds.gone("a")
    assert speeds.mean_points() == ()
    assert speeds.work_s(1000) == 1.0, "jobs that wait keep their prediction"
    speeds.validate([])


@pytest.mark.parametrize("ends", [(5e-324, 1e12), (1e12, 5e-324), (1e-300, 1e-300), (1e12, 1e12)])
def test_any_times_that_are_announced_leave_a_pace(ends: tuple[float, float]) -> None:
    speeds = Speeds()
    for number, seconds in enumerate((*ends, 1.0, *ends)):
        for worker in ("a", "b"):
            speeds.announced(worker, ((100.0, seconds), (200.0 + number, ends[number % 2])))
            assert 1 / 64 <= speeds.pace(worker) <= 64
            assert all(0 < each_s < 1e9 for _, each_s in speeds.mean_points())
    speeds.validate(["a", "b"])
