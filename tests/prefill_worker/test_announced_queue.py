"""Seconds of work that wait, and that are in hand."""

from prfaas.capacity.observed import ObservedTimes
from prfaas_prefill_worker.announced_queue import SharedQueue


def test_it_counts_what_waits_and_what_is_left() -> None:
    observed = ObservedTimes()
    observed.observe(1000, 2.0)
    queue = SharedQueue(observed)
    queue.waiting = 3
    assert (queue.queued_s, queue.busy_s(0.0)) == (0.0, 0.0), "nothing is known of how long a job takes"
    assert queue.running == 0
    queue.take(1000, 10.0)
    assert queue.running == 1
    assert (queue.queued_s, queue.busy_s(10.5), queue.busy_s(13.0)) == (6.0, 1.5, 0.0)
    queue.take(2000, 13.0)
    assert 6.0 < queue.queued_s < 12.0, "a mean, of which the newest is a part"
    queue.idle()
    assert queue.busy_s(13.0) == 0.0
    assert queue.running == 0
