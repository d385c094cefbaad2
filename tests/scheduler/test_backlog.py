"""The wait behind a site's queue, kept without walking the queue."""

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from prfaas_scheduler.backlog import Backlog
from tests.budget import examples


def test_the_wait_is_the_work_in_front_of_the_next_one() -> None:
    backlog = Backlog()
    assert backlog.wait_s(1, 0.0) == 0
    backlog.add("a", 4.0, 10.0, 1, 0.0)
    backlog.add("b", 2.0, 20.0, 1, 0.0)
    assert backlog.wait_s(1, 0.0) == 6.0
    assert backlog.wait_s(1, 3.0) == 3.0
    assert backlog.wait_s(1, 5.0) == 2.0, "the first is overdue, the second has not begun"
    backlog.remove("a", 1, 5.0)
    assert backlog.wait_s(1, 6.0) == 1.0
    assert backlog.kv_bytes == 20.0


def test_a_free_worker_means_no_wait() -> None:
    backlog = Backlog()
    backlog.add("a", 4.0, 1.0, 2, 0.0)
    assert backlog.wait_s(2, 0.0) == 0.0
    backlog.add("b", 4.0, 1.0, 2, 0.0)
    assert backlog.wait_s(2, 0.0) == 4.0


def test_jobs_bound_to_one_worker_leave_the_others_free() -> None:
    backlog = Backlog()
    for number in range(4):
        backlog.add(str(number), 5.0, 0.0, 3, 0.0, "p1")
    assert backlog.wait_s(3, 0.0) == 0.0
    assert backlog.worker_wait_s("p1", 3, 0.0) == 20.0
    assert backlog.worker_wait_s("p2", 3, 0.0) < 20.0
    backlog.add("other", 5.0, 0.0, 3, 0.0)
    backlog.add("another", 5.0, 0.0, 3, 0.0)
    assert backlog.wait_s(3, 0.0) > 0.0
    backlog.validate()
    for number in range(4):
        backlog.remove(str(number), 3, 1.0)
        backlog.validate()
    assert backlog.worker_wait_s("p1", 3, 1.0) == backlog.worker_wait_s("p2", 3, 1.0)


class AnyOrder(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.backlog, self.now_s, self.count = Backlog(), 0.0, 0
        self.here: set[str] = set()

    @rule(
        work_s=st.floats(0, 100),
        kv_bytes=st.floats(0, 1e9),
        workers=st.integers(0, 4),
        worker=st.sampled_from([None, None, "p0", "p1"]),
    )
    def add(self, work_s: float, kv_bytes: float, workers: int, worker: str | None) -> None:
        self.count += 1
        self.here.add(str(self.count))
        self.backlog.add(str(self.count), work_s, kv_bytes, workers, self.now_s, worker)

    @rule(number=st.integers(0, 30), workers=st.integers(0, 4))
    def remove(self, number: int, workers: int) -> None:
        self.here.discard(str(number))
        self.backlog.remove(str(number), workers, self.now_s)

    @rule(seconds=st.floats(0, 50))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @invariant()
    def adds_up(self) -> None:
        self.backlog.validate()
        assert len(self.backlog) == len(self.here)
        assert self.backlog.wait_s(2, self.now_s) >= 0
        assert self.backlog.worker_wait_s("p0", 2, self.now_s) >= 0


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=examples(60), stateful_step_count=30, deadline=None)
