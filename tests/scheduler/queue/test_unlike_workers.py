"""Workers of unlike speeds in one pool: which of them gets a job, when one that is ready leaves it to another, and refusals."""

import pytest

from prfaas_scheduler.queue.events import Dispatch, TimePassed, WorkerGone
from prfaas_scheduler.queue.site_queue import SiteQueue
from tests.scheduler.queue.jobs import arrive, dispatched, job, ready, refused


@pytest.fixture
def queue() -> SiteQueue:
    """A queue with a fast worker that is busy for two seconds, and one three times as slow that is ready."""
    made = SiteQueue()
    ready(made, "fast")
    assert dispatched(arrive(made, job("first", 2.0)))
    ready(made, "slow", pace=3.0)
    return made


def test_of_two_that_are_ready_the_faster_one_gets_the_job() -> None:
    queue = SiteQueue()
    ready(queue, "slow", pace=3.0)
    ready(queue, "fast")
    assert arrive(queue, job("a")) == [Dispatch("a", "fast")]
    assert arrive(queue, job("b")) == [Dispatch("b", "slow")]


def test_a_job_that_the_slow_one_does_in_time_is_not_kept_from_it(queue: SiteQueue) -> None:
    assert arrive(queue, job("a", 3.0, due_s=10.0)) == [Dispatch("a", "slow")]


def test_a_job_that_only_the_fast_one_does_in_time_waits_for_it(queue: SiteQueue) -> None:
    assert arrive(queue, job("tight", 4.0, due_s=10.0)) == []
    assert arrive(queue, job("loose", 3.0, due_s=20.0)) == [Dispatch("loose", "slow")], "it is passed by others"
    assert queue.handle(TimePassed(1.0)) == []
    queue.validate()
    assert ready(queue, "fast", 2.0) == [Dispatch("tight", "fast")]


def test_a_job_that_neither_does_in_time_goes_to_the_one_that_is_ready(queue: SiteQueue) -> None:
    assert arrive(queue, job("late", 9.0, due_s=5.0)) == [Dispatch("late", "slow")], "the fast one would end it at 11 s"


def test_a_job_that_would_expire_on_the_slow_one_waits_for_the_fast_one(queue: SiteQueue) -> None:
    assert arrive(queue, job("late", 4.0, due_s=5.0, expires_s=7.0)) == []
    assert ready(queue, "fast", 2.0) == [Dispatch("late", "fast")]


def test_only_as_many_jobs_wait_for_the_fast_one_as_it_does_in_time(queue: SiteQueue) -> None:
    assert arrive(queue, job("a", 4.0, due_s=10.0)) == []
    assert arrive(queue, job("b", 5.0, due_s=10.5)) == [Dispatch("b", "slow")], "11 s are more than it has for both"


def test_a_fast_one_that_is_late_itself_is_waited_for_no_longer_than_it_helps(queue: SiteQueue) -> None:
    assert arrive(queue, job("a", 4.0, due_s=10.0)) == []
    assert queue.handle(TimePassed(5.9)) == []
    assert queue.handle(TimePassed(6.1)) == [Dispatch("a", "slow")]


def test_a_fast_one_that_is_gone_is_waited_for_by_nobody(queue: SiteQueue) -> None:
    assert arrive(queue, job("a", 4.0, due_s=10.0)) == []
    assert queue.handle(WorkerGone(1.0, "fast")) == [Dispatch("a", "slow")]


def test_a_job_is_refused_when_the_fastest_would_end_it_after_its_expiry_and_not_before(queue: SiteQueue) -> None:
    assert refused(arrive(queue, job("a", 4.0, due_s=3.0, expires_s=3.9))) == ["a"]
    assert refused(arrive(queue, job("b", 4.0, due_s=3.0, expires_s=6.1))) == []


def test_a_worker_twice_as_fast_does_twice_as_much() -> None:
    alike, unlike = SiteQueue(), SiteQueue()
    for queue, pace in ((alike, 1.0), (unlike, 0.5)):
        ready(queue, "w0", pace=pace)
        arrive(queue, job("first", 0.001))
        for number in range(100):
            arrive(queue, job(f"{number}", 1.0))
    assert len(unlike) == pytest.approx(2 * len(alike), rel=0.1)
    assert unlike.models["m"].wait_s == pytest.approx(alike.models["m"].wait_s, abs=0.6)
