"""Links carry exactly what their schedule allows; batches and queues take the time that their profiles say."""

import math
from itertools import pairwise

import hypothesis.strategies as st
import pytest
import simpy
from hypothesis import given

from load.simulate.cache import BlockCache
from load.simulate.decode import DecodeWorker
from load.simulate.link import Link
from load.simulate.prefill import Job, PrefillStation, Prompt, piece_bytes
from load.simulate.scenario import DecodePool, LinkSpec, PrefillPool
from prfaas.capacity.builtin import builtin_profile
from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import BlocksChanged
from prfaas.kvcache.blocks import unpack_hashes

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


def decoder(env: simpy.Environment, slots: int = 100) -> DecodeWorker:
    return DecodeWorker(env, "home", "d0", DecodePool(profile=H20, workers=1, slots=slots, waiting=1), 1.0, 1.0)


def test_a_batch_up_to_the_limit_takes_the_profiles_step() -> None:
    env = simpy.Environment()
    worker = decoder(env)
    ends = [worker.join(100) for _ in range(20)]
    env.run(until=ends[0][0])
    assert env.now == pytest.approx(0.025)
    env.run(until=ends[-1][1])
    assert env.now == pytest.approx(2.5)


def test_a_batch_above_the_limit_makes_no_more_tokens_per_second() -> None:
    env = simpy.Environment()
    worker = decoder(env)
    short, long = worker.join(10), [worker.join(100) for _ in range(39)]
    env.run(until=short[1])
    assert env.now == pytest.approx(10 * 0.05)
    env.run(until=long[-1][1])
    assert env.now == pytest.approx(10 * 0.05 + 90 * 0.025 * 39 / 20)


def test_who_joins_during_a_step_waits_for_its_end() -> None:
    env = simpy.Environment()
    worker = decoder(env)
    worker.join(100)
    env.run(until=0.03)
    first, last = worker.join(10)
    env.run(until=first)
    assert env.now == pytest.approx(3 * 0.025)
    env.run(until=last)
    assert env.now == pytest.approx(12 * 0.025)


def test_slots_are_given_in_order_and_the_line_is_bounded() -> None:
    env = simpy.Environment()
    worker = decoder(env, slots=1)
    first, second, third = worker.admit(), worker.admit(), worker.admit()
    assert first is not None and second is not None and third is None
    assert (first.triggered, second.triggered) == (True, False)
    worker.release()
    assert (second.triggered, worker.held, worker.waiting) == (True, 1, 0)
    worker.release()
    assert worker.held == 0


def test_jobs_wait_for_one_of_the_workers() -> None:
    env = simpy.Environment()
    station = PrefillStation(env, "home", PrefillPool(profile=H20, workers=2), 1.0, 1.0)
    jobs = [Job(env, Prompt(8192), None) for _ in range(3)]
    for job in jobs:
        station.submit(job)
    env.run(until=jobs[1].verified)
    assert env.now == pytest.approx(H20.prefill_s(8192))
    env.run(until=jobs[2].verified)
    assert env.now == pytest.approx(2 * H20.prefill_s(8192))


def test_a_cancelled_job_is_not_run() -> None:
    env = simpy.Environment()
    station = PrefillStation(env, "home", PrefillPool(profile=H20, workers=1), 1.0, 1.0)
    first, second, third = (Job(env, Prompt(8192), None) for _ in range(3))
    for job in (first, second, third):
        station.submit(job)
    second.cancel()
    env.run(until=third.verified)
    assert env.now == pytest.approx(2 * H20.prefill_s(8192)) and not second.verified.triggered


def test_a_fast_link_hides_behind_prefill_and_a_slow_one_holds_the_worker() -> None:
    tokens = 32_768
    sizes = piece_bytes(H20, tokens)
    assert sum(sizes) == pytest.approx(H20.kv_bytes(tokens))
    for rate, want_s in ((1e12, H20.prefill_s(tokens)), (1e7, H20.prefill_s(tokens // 8) + sum(sizes) / 1e7)):
        env = simpy.Environment()
        station = PrefillStation(env, "far", PrefillPool(profile=H20, workers=1), 1.0, 1.0)
        job = Job(env, Prompt(tokens), Link(LinkSpec(rates=((0.0, rate),), rtt_s=0.0)))
        station.submit(job)
        env.run(until=job.verified)
        assert env.now == pytest.approx(want_s, rel=0.01)


def test_a_cached_prefix_is_neither_computed_nor_shipped_to_who_has_it() -> None:
    env = simpy.Environment()
    heard: list[BlocksChanged] = []
    station = PrefillStation(env, "home", PrefillPool(profile=H20, workers=1, cache_blocks=100), 1.0, 1.0, heard.append)
    blocks = list(range(1, 61))
    first = Job(env, Prompt(60 * 512, blocks, 512), None)
    station.submit(first)
    env.run(until=first.verified)
    assert env.now == pytest.approx(H20.prefill_s(60 * 512))
    second = Job(env, Prompt(64 * 512, [*blocks, 61, 62, 63, 64], 512), None)
    station.submit(second)
    env.run(until=second.verified)
    assert env.now == pytest.approx(H20.prefill_s(60 * 512) + H20.prefill_s(4 * 512))
    env.run(until=env.now + 1.0)
    assert [list(unpack_hashes(changed.stored)) for changed in heard] == [blocks, [61, 62, 63, 64]]
    whole, rest = piece_bytes(H20, 40_000), piece_bytes(H20, 40_000, 30_000)
    assert sum(whole) - sum(rest) == pytest.approx(0.75 * sum(whole[:-1]) * 8 / 7)


def test_a_bound_job_waits_for_its_worker_and_goes_before_shared_ones() -> None:
    env = simpy.Environment()
    station = PrefillStation(env, "home", PrefillPool(profile=H20, workers=2), 1.0, 1.0)
    running = [Job(env, Prompt(8192), None, worker=worker) for worker in ("p1", "p1")]
    shared = [Job(env, Prompt(8192), None) for _ in range(3)]
    for job in (*running, *shared):
        station.submit(job)
    late = Job(env, Prompt(8192), None, worker="p1")
    station.submit(late)
    env.run(until=late.verified)
    step_s = H20.prefill_s(8192)
    assert env.now == pytest.approx(3 * step_s)
    assert all(job.verified.triggered for job in (*running, *shared[:2]))


@given(st.lists(st.lists(st.integers(0, 2), max_size=4), max_size=30), st.integers(0, 5))
def test_a_cache_holds_whole_beginnings_and_says_exactly_what_changes(prompts: list[list[int]], capacity: int) -> None:
    cache, told, sequence = BlockCache("home", "p0", Role.PREFILL, capacity), set[int](), 0
    for prompt in prompts:
        # A block's name stands for all before it too.
        blocks = [sum((token + 1) * 4**at for at, token in enumerate(prompt[:end])) for end in range(1, len(prompt) + 1)]
        changed = cache.use(blocks)
        if changed is not None:
            sequence += 1
            assert changed.sequence == sequence
            stored, removed = set(unpack_hashes(changed.stored)), set(unpack_hashes(changed.removed))
            assert not stored & told and removed <= told | stored
            told = (told | stored) - removed
        assert len(cache) == len(told) <= capacity
        assert cache.cached(blocks) == min(len(blocks), capacity)
        for block in told:
            assert cache.cached([block]) == 1
            parent = block % 4 ** (len(_digits(block)) - 1)
            assert parent == 0 or parent in told, "the end of a prefix leaves before its beginning"


def _digits(block: int) -> list[int]:
    out = []
    while block:
        out.append(block % 4)
        block //= 4
    return out
