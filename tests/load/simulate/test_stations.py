"""Links carry exactly what their schedule allows; batches and queues take the time that their profiles say."""

import math
from itertools import pairwise
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from load.simulate.clock import Clock
from load.simulate.decode import DecodeWorker
from load.simulate.link import Link
from load.simulate.prefill import PrefillStation
from load.simulate.prefill_job import Job, Prompt, piece_bytes
from load.simulate.scenario import DecodePool, LinkSpec, PrefillPool
from prfaas.capacity.builtin import builtin_profile
from prfaas.contracts.to_scheduler import BlocksChanged
from prfaas.kvcache.blocks import unpack_hashes
from prfaas_scheduler.queue.options import QueueOptions

H20 = builtin_profile("paper-1t-h20")

schedules = st.lists(st.tuples(st.floats(0.1, 5.0), st.sampled_from([0.0, 1.0, 10.0, 1000.0])), max_size=4)


@given(schedules, st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(0.1, 500.0)), min_size=1, max_size=12))
def test_a_link_never_carries_more_than_its_rate_and_loses_nothing(
    changes: list[tuple[float, float]], sends: list[tuple[float, float]]
) -> None:
    rates, at_s = [(0.0, 100.0)], 0.0
    for gap_s, rate in changes:
        at_s += gap_s
        rates.append((at_s, rate))
    rates.append((at_s + 1.0, 50.0))
    link = Link(LinkSpec(rates=tuple(rates), rtt_s=0.0))
    now_s, arrived_s = 0.0, 0.0
    for gap_s, size_bytes in sends:
        now_s += gap_s
        before_s, arrived_s = arrived_s, link.send(size_bytes, now_s)
        assert arrived_s >= max(before_s, now_s)
    assert sum(link.sent_bytes.values()) == pytest.approx(sum(size for _, size in sends))
    for second, carried in link.sent_bytes.items():
        edges = sorted({float(second), second + 1.0, *(start for start, _ in rates if second < start < second + 1)})
        allowed = sum(link.rate(left) * (right - left) for left, right in pairwise(edges))
        assert carried <= allowed + 1e-6


def test_a_link_that_stays_cut_never_delivers() -> None:
    link = Link(LinkSpec(rates=((0.0, 10.0), (1.0, 0.0)), rtt_s=0.2))
    assert link.send(5.0, 0.0) == pytest.approx(0.6)
    assert link.send(10.0, 0.0) == math.inf


@pytest.mark.parametrize("rates", [(), ((1.0, 5.0),), ((0.0, 5.0), (0.0, 6.0)), ((0.0, -1.0),)])
def test_a_wrong_schedule_is_explained(rates: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValueError, match="rates must start at 0"):
        Link(LinkSpec(rates=rates))


def decoder(clock: Clock, slots: int = 100, *, batch_limited: bool = False) -> DecodeWorker:
    pool = DecodePool(profile=H20, workers=1, slots=slots, waiting=1, batch_limited=batch_limited)
    return DecodeWorker(clock, "home", "d0", pool, 1.0, 1.0)


def joined(clock: Clock, worker: DecodeWorker, tokens: int) -> list[float]:
    """Moments of the first and the last token, once they have come."""
    moments: list[float] = []
    worker.join(tokens, lambda: moments.append(clock.now_s), lambda: moments.append(clock.now_s))
    return moments


def submitted(clock: Clock, station: PrefillStation, tokens: int = 8192, link: Link | None = None, **more: Any) -> list[float]:
    """The moment at which a job's KV is verified, once it is."""
    moments: list[float] = []
    prompt = more.pop("prompt", Prompt(tokens))
    station.submit(Job(prompt, link, on_verified=lambda: moments.append(clock.now_s), **more))
    return moments


def test_callbacks_come_in_the_order_of_their_moments_and_of_their_making() -> None:
    clock, seen = Clock(), list[str]()
    for at_s, name in ((2.0, "late"), (1.0, "first"), (1.0, "second")):
        clock.at(at_s, seen.append, name)
    clock.after(0.5, lambda: clock.after(0.5, seen.append, "third"))
    clock.run_until(1.5)
    assert (seen, clock.now_s) == (["first", "second", "third"], 1.5)
    clock.run()
    assert seen[-1] == "late"


def test_a_batch_up_to_the_limit_takes_the_profiles_step() -> None:
    clock = Clock()
    worker = decoder(clock)
    ends = [joined(clock, worker, 100) for _ in range(20)]
    clock.run()
    assert ends == [pytest.approx([0.025, 2.5])] * 20


def test_a_batch_above_the_limit_makes_no_more_tokens_per_second() -> None:
    clock = Clock()
    worker = decoder(clock)
    short, long = joined(clock, worker, 10), [joined(clock, worker, 100) for _ in range(39)]
    clock.run()
    assert short[1] == pytest.approx(10 * 0.05)
    assert long[-1][1] == pytest.approx(10 * 0.05 + 90 * 0.025 * 39 / 20)


def test_a_limited_batch_lets_the_next_one_wait_for_room() -> None:
    clock = Clock()
    worker = decoder(clock, batch_limited=True)
    ends = [joined(clock, worker, 100) for _ in range(21)]
    assert (worker.batch, worker.joining) == (20, 1)
    clock.run()
    assert ends[19] == pytest.approx([0.025, 2.5])
    assert ends[20] == pytest.approx([2.5 + 0.025, 5.0])


def test_who_joins_during_a_step_waits_for_its_end() -> None:
    clock = Clock()
    worker = decoder(clock)
    joined(clock, worker, 100)
    clock.run_until(0.03)
    moments = joined(clock, worker, 10)
    clock.run()
    assert moments == pytest.approx([3 * 0.025, 12 * 0.025])


def test_slots_are_given_in_order_and_the_line_is_bounded() -> None:
    worker, seen = decoder(Clock(), slots=1), list[int]()
    tickets = [worker.admit(lambda number=number: seen.append(number)) for number in range(3)]  # type: ignore[misc]
    assert tickets[0] is not None and tickets[1] is not None and tickets[2] is None
    assert seen == [0]
    worker.release()
    assert (seen, worker.held, worker.waiting) == ([0, 1], 1, 0)
    assert not worker.leave_line(tickets[1])
    worker.release()
    assert worker.held == 0


def test_jobs_wait_for_one_of_the_workers() -> None:
    clock = Clock()
    station = PrefillStation(clock, "home", PrefillPool(profile=H20, workers=2), 1.0, 1.0)
    jobs = [submitted(clock, station) for _ in range(3)]
    clock.run()
    step_s = H20.prefill_s(8192)
    assert [moment for job in jobs for moment in job] == pytest.approx([step_s, step_s, 2 * step_s])


def test_a_cancelled_job_is_not_run() -> None:
    clock = Clock()
    station = PrefillStation(clock, "home", PrefillPool(profile=H20, workers=1), 1.0, 1.0)
    submitted(clock, station)
    second = Job(Prompt(8192), None)
    station.submit(second)
    third = submitted(clock, station)
    station.withdraw(second)
    clock.run()
    assert third == pytest.approx([2 * H20.prefill_s(8192)]) and not second.verified


def test_a_fast_link_hides_behind_prefill_and_a_slow_one_holds_the_worker() -> None:
    tokens = 32_768
    sizes = piece_bytes(H20, tokens)
    assert sum(sizes) == pytest.approx(H20.kv_bytes(tokens))
    for rate, want_s in ((1e12, H20.prefill_s(tokens)), (1e7, H20.prefill_s(tokens // 8) + sum(sizes) / 1e7)):
        clock = Clock()
        station = PrefillStation(clock, "far", PrefillPool(profile=H20, workers=1), 1.0, 1.0)
        moments = submitted(clock, station, tokens, Link(LinkSpec(rates=((0.0, rate),), rtt_s=0.0)))
        clock.run()
        assert moments == pytest.approx([want_s], rel=0.01)


def test_a_job_that_waits_for_a_link_that_stays_cut_gives_its_worker_back_when_it_is_cancelled() -> None:
    clock = Clock()
    station = PrefillStation(clock, "far", PrefillPool(profile=H20, workers=1), 1.0, 1.0)
    stuck = Job(Prompt(32_768), Link(LinkSpec(rates=((0.0, 1e9), (0.1, 0.0)))))
    station.submit(stuck)
    clock.run_until(60.0)
    next_one = submitted(clock, station)
    clock.run_until(90.0)
    assert not next_one
    station.withdraw(stuck)
    clock.run()
    assert next_one == pytest.approx([90.0 + H20.prefill_s(8192)])


def test_a_cached_prefix_is_neither_computed_nor_shipped_to_who_has_it() -> None:
    clock = Clock()
    heard: list[BlocksChanged] = []
    station = PrefillStation(clock, "home", PrefillPool(profile=H20, workers=1, cache_bytes=10**12), 1.0, 1.0, heard.append)
    blocks = list(range(1, 61))
    first = submitted(clock, station, prompt=Prompt(60 * 512, blocks, 512))
    second = submitted(clock, station, prompt=Prompt(64 * 512, [*blocks, 61, 62, 63, 64], 512))
    clock.run()
    first_s = H20.prefill_s(60 * 512)
    assert [*first, *second] == pytest.approx([first_s, first_s + H20.rest_s(64 * 512, 60 * 512)])
    # A state is kept after the last block, and after every third while there is room.
    assert [list(unpack_hashes(changed.stored)) for changed in heard] == [blocks[2::3], [63, 64]]
    whole, rest = piece_bytes(H20, 40_000), piece_bytes(H20, 40_000, 30_000)
    assert sum(whole) - sum(rest) == pytest.approx(0.75 * sum(whole[:-1]) * 8 / 7)


def test_what_was_computed_before_its_cancelling_is_kept() -> None:
    clock = Clock()
    pool = PrefillPool(profile=H20, workers=1, cache_bytes=10**12)
    station = PrefillStation(clock, "far", pool, 1.0, 1.0)
    blocks = list(range(1, 65))
    job = Job(Prompt(64 * 512, blocks, 512), Link(LinkSpec(rates=((0.0, 1e12),))))
    station.submit(job)
    clock.run_until(H20.prefill_s(32 * 512) + 0.01)
    station.withdraw(job)
    clock.run()
    assert station.workers[0].cache.cached(blocks) == 39, "five of eight parts, and a state after every third block"
    assert station.workers[0].cache.pool.pinned == 0


def test_a_bound_job_waits_for_its_worker_and_goes_before_shared_ones() -> None:
    clock = Clock()
    station = PrefillStation(clock, "home", PrefillPool(profile=H20, workers=2), 1.0, 1.0)
    running = [submitted(clock, station, worker=worker) for worker in ("p1", "p1")]
    shared = [submitted(clock, station) for _ in range(3)]
    late = submitted(clock, station, worker="p1")
    clock.run_until(3 * H20.prefill_s(8192) + 1e-6)
    assert late == pytest.approx([3 * H20.prefill_s(8192)])
    assert all(running) and all(shared[:2])


def test_a_station_with_a_queue_serves_by_due_dates_and_refuses_what_cannot_be_in_time() -> None:
    clock, refusals = Clock(), list[str]()
    station = PrefillStation(clock, "home", PrefillPool(profile=H20, workers=1, queue=QueueOptions()), 1.0, 1.0)
    step_s = H20.prefill_s(8192)
    first, late, soon = (
        submitted(clock, station, job_id=name, due_at=due_s, expires_at=60.0)
        for name, due_s in (("first", 5.0), ("late", 50.0), ("soon", 10.0))
    )
    hopeless = submitted(clock, station, job_id="hopeless", due_at=0.1, expires_at=0.2, on_refused=refusals.append)
    clock.run()
    assert [*first, *soon, *late] == pytest.approx([step_s, 2 * step_s, 3 * step_s])
    assert not hopeless and "8192 tokens" in refusals[0]
