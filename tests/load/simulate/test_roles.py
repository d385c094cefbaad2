"""Simulated workers change their role: no request is lost on the way, and traffic that turns is followed."""

import pytest

from load.simulate.clock import Clock
from load.simulate.decode import DecodeWorker
from load.simulate.paper import H20
from load.simulate.prefill import PrefillStation
from load.simulate.prefill_job import Job, Prompt
from load.simulate.roles import SHORT_OUTPUT_TOKENS, phases, run
from load.simulate.scenario import DecodePool, PrefillPool


def test_a_prefill_worker_that_leaves_does_its_own_jobs_and_leaves_the_rest() -> None:
    clock, left_at = Clock(), list[float]()
    station = PrefillStation(clock, "home", PrefillPool(profile=H20, workers=2), 1.0, 1.0)
    jobs = [Job(Prompt(1000), None, worker=worker) for worker in (None, None, "p1", None)]
    for job in jobs[:2]:
        station.submit(job)
    clock.run_until(0.001)
    for job in jobs[2:]:
        station.submit(job)
    station.leave("p1", lambda: left_at.append(clock.now_s))
    clock.run()
    assert left_at == pytest.approx([2 * H20.prefill_s(1000)]), "the job in hand, and its own"
    assert all(job.verified for job in jobs)
    again = station.add("p1")
    job = Job(Prompt(1000), None, worker="p1")
    station.submit(job)
    clock.run()
    assert job.verified and again.busy_s == pytest.approx(H20.prefill_s(1000))


def test_a_decode_worker_that_leaves_finishes_its_requests() -> None:
    clock, left_at = Clock(), list[float]()
    decoder = DecodeWorker(clock, "home", "d0", DecodePool(profile=H20, workers=1, slots=4), 1.0, 1.0)
    for tokens in (10, 40):
        decoder.admit(lambda tokens=tokens: decoder.join(tokens, lambda: None, decoder.release))  # type: ignore[misc]
    clock.run_until(0.001)
    decoder.leave(lambda: left_at.append(clock.now_s))
    clock.run()
    assert left_at == pytest.approx([40 * 0.025], abs=0.03)
    assert decoder.observed.points() == ((1, 0.025), (2, 0.025))
    idle = DecodeWorker(clock, "home", "d1", DecodePool(profile=H20, workers=1, slots=4), 1.0, 1.0)
    idle.leave(lambda: None)
    assert idle.has_left


def test_workers_follow_the_traffic_and_no_request_is_lost() -> None:
    found = phases()[:2]
    assert [phase.n_prefill for phase in found] == [3, 7] and found[1].output_tokens == SHORT_OUTPUT_TOKENS
    fixed, moving = (run(3, movable, found, 1200.0) for movable in (False, True))
    assert not fixed.role_changes
    assert moving.role_changes and all(at_s > 1200.0 and role == "prefill" for at_s, _, role in moving.role_changes)
    for name in ("first", "then"):
        assert not moving.phases[name].errors
        assert moving.phases[name].kept_share >= fixed.phases[name].kept_share - 0.005
    first, then = moving.phases["then"].ttft, fixed.phases["then"].ttft
    assert first is not None and then is not None and first.p90_s < 0.7 * then.p90_s
