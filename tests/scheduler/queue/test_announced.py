"""The wait behind a queue as it was announced, and what was placed there since."""

import pytest

from prfaas_scheduler.queue.announced import SILENT_S, QueueState, SeenQueue


def state(seen_at: float = 0.0, *, due_s: float = 8.0, running_s: float = 4.0, ready: int = 0) -> QueueState:
    return QueueState(site="far", due_s=due_s, running_s=running_s, ready=ready, seen_at=seen_at)


def test_the_wait_shrinks_with_time_and_grows_with_what_is_placed() -> None:
    queue = SeenQueue(state())
    assert queue.wait_s(4, 0.0) == 3.0
    assert queue.wait_s(4, 1.0) == 2.0
    queue.place(4.0, 1.0)
    assert queue.wait_s(4, 1.0) == 3.0
    assert queue.wait_s(4, 10.0) == 0.0


def test_an_announcement_shows_what_was_placed_before_it() -> None:
    queue = SeenQueue(state())
    queue.place(4.0, 1.0)
    queue.place(2.0, 3.0)
    queue.update(state(2.0, due_s=12.0))
    assert queue.wait_s(4, 3.0) == pytest.approx((12 + 4 + 2) / 4 - 1)


def test_a_ready_worker_means_no_wait() -> None:
    queue = SeenQueue(state(due_s=0.0, ready=1))
    assert queue.wait_s(4, 0.0) == 0.0
    queue.place(4.0, 0.0)
    assert queue.wait_s(4, 0.0) == 2.0


def test_a_queue_that_is_announced_no_more_is_not_known() -> None:
    queue = SeenQueue(state(1.0))
    assert not queue.is_silent(1.0 + SILENT_S)
    assert queue.is_silent(1.1 + SILENT_S)
    queue.update(state(5.0))
    assert not queue.is_silent(5.0)
