"""The dispatcher's core with workers of unlike speeds in one pool."""

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from prfaas.contracts.to_scheduler import PrefillReadiness
from prfaas_scheduler.dispatch_core import SILENT_S, DispatchCore
from prfaas_scheduler.dispatch_events import (
    AskWorker,
    ClockTicked,
    DispatchEnded,
    DispatchResult,
    Instruction,
    JobCancelled,
    JobHeld,
    ReadinessHeard,
)
from prfaas_scheduler.queue.events import Dispatch, Job, Refuse
from prfaas_scheduler.queue.site_queue import SiteQueue
from tests.budget import examples

MODEL = "m"
LENGTHS_TOKENS = (1000, 4000, 16_000)
SECONDS = {1000: 1.0, 4000: 5.0, 16_000: 30.0}
"""Prefill time of a worker of pace 1 by length."""


def readiness(worker: str, pace: float, *, ready: bool = True, taken: int = 0, incarnation: str = "i") -> PrefillReadiness:
    points = tuple((float(tokens), seconds * pace) for tokens, seconds in SECONDS.items()) if pace else ()
    return PrefillReadiness(worker=worker, incarnation=incarnation, model=MODEL, ready=ready, taken=taken, prefill_points=points)


def held(core: DispatchCore, now_s: float, job_id: str, tokens: int, due_s: float, expires_s: float) -> Job:
    return Job(
        job_id=job_id,
        model=MODEL,
        prefill_tokens=tokens,
        work_s=core.work_s(MODEL, tokens, expires_s),
        arrived_at=now_s,
        due_at=now_s + due_s,
        expires_at=now_s + expires_s,
    )


@pytest.fixture(params=["the slow one tells last", "the fast one tells last"])
def core(request: pytest.FixtureRequest) -> DispatchCore:
    """A core whose workers are busy: `fast`, and `slow`, which takes ten times as long."""
    core = DispatchCore(SiteQueue())
    for worker, pace in (("fast", 1.0), ("slow", 8.0)):
        core.handle(ReadinessHeard(0.0, readiness(worker, pace)))
    for worker in ("fast", "slow"):
        assert core.handle(JobHeld(0.0, held(core, 0.0, f"first of {worker}", 1000, 100.0, 100.0))) == [
            Dispatch(f"first of {worker}", worker)
        ]
    names = [("fast", 1.0), ("slow", 8.0)]
    for worker, pace in names if request.param.startswith("the slow") else reversed(names):
        core.handle(ReadinessHeard(0.1, readiness(worker, pace, ready=False, taken=1)))
    return core


def test_a_job_that_the_fast_worker_does_in_time_is_not_refused_for_the_slow_one(core: DispatchCore) -> None:
    job = held(core, 0.2, "tight", 4000, 10.0, 12.0)
    assert job.work_s * core.least_pace(MODEL) == pytest.approx(5.0)
    assert core.handle(JobHeld(0.2, job)) == []
    assert core.handle(ReadinessHeard(1.0, readiness("fast", 1.0, taken=1))) == [Dispatch("tight", "fast")]


def test_a_job_that_the_slow_worker_would_end_too_late_waits_for_the_fast_one(core: DispatchCore) -> None:
    core.handle(JobHeld(0.2, held(core, 0.2, "more", 4000, 100.0, 120.0)))
    assert core.handle(ReadinessHeard(0.9, readiness("fast", 1.0, taken=1))) == [Dispatch("more", "fast")]
    core.handle(ReadinessHeard(1.0, readiness("fast", 1.0, ready=False, taken=2)))
    assert core.handle(JobHeld(1.0, held(core, 1.0, "tight", 4000, 15.0, 20.0))) == []
    assert core.handle(ReadinessHeard(2.0, readiness("slow", 8.0, taken=1))) == [], "it would need 40 s"
    assert core.handle(ReadinessHeard(6.0, readiness("fast", 1.0, taken=2))) == [Dispatch("tight", "fast")]


def test_what_is_announced_of_the_queue_is_the_same_wait_for_as_many_workers_alike(core: DispatchCore) -> None:
    core.handle(JobHeld(0.2, held(core, 0.2, "a", 4000, 100.0, 120.0)))
    core.handle(JobHeld(0.2, held(core, 0.2, "b", 4000, 100.0, 120.0)))
    said = core.announcement("home", 0.2)
    assert said.due_s / 2 == pytest.approx(10.0 / (1 + 1 / 8), rel=0.01)


def test_a_worker_that_tells_no_times_counts_as_one_of_the_pool() -> None:
    core = DispatchCore(SiteQueue())
    core.handle(ReadinessHeard(0.0, readiness("a", 1.0)))
    core.handle(ReadinessHeard(0.0, readiness("older", 0.0)))
    core.validate()
    assert core.queue.models[MODEL].running.capacity == 2.0


@dataclass
class Process:
    """A prefill worker. Its pace is that of its process."""

    pace: float
    number: int = 0
    taken: int = 0
    own: str | None = None
    """Job that was dispatched to it, and that it runs."""
    ends_at: float = 0.0


class UnlikeWorkers(RuleBasedStateMachine):
    """No job is lost, none is dispatched twice, and none is refused that a worker would do in time if it took it now."""

    @initialize(paces=st.lists(st.sampled_from([0.25, 0.5, 1.0, 1.0, 2.0, 8.0]), min_size=1, max_size=5))
    def begin(self, paces: list[float]) -> None:
        self.core = DispatchCore(SiteQueue())
        self.now_s, self.count = 0.0, 0
        self.workers = {f"p{index}": Process(pace) for index, pace in enumerate(paces)}
        self.open: dict[str, Job] = {}
        """Jobs that wait."""
        self.known: dict[str, Job] = {}
        self.dispatched: set[str] = set()
        for name in self.workers:
            self.tell(name)

    def tell(self, name: str) -> None:
        worker = self.workers[name]
        said = readiness(name, worker.pace, ready=worker.own is None, taken=worker.taken, incarnation=str(worker.number))
        self.do(self.core.handle(ReadinessHeard(self.now_s, said)))

    def do(self, instructions: list[Instruction]) -> None:
        for each in instructions:
            if isinstance(each, AskWorker):
                continue
            assert isinstance(each, Dispatch | Refuse)
            job = self.open.pop(each.job_id)
            if isinstance(each, Refuse):
                self.expect_none_in_time(job)
                continue
            worker = self.workers[each.worker]
            assert each.job_id not in self.dispatched and worker.own is None
            self.dispatched.add(each.job_id)
            worker.own, worker.ends_at = each.job_id, self.now_s + SECONDS[job.prefill_tokens] * worker.pace

    def expect_none_in_time(self, job: Job) -> None:
        """A margin is left for what a pace is rounded by."""
        ready = self.core.queue.models[MODEL].running.ready
        for name in ready:
            worker = self.workers[name]
            if worker.own is None:
                assert self.now_s + 1.2 * SECONDS[job.prefill_tokens] * worker.pace > job.due_at, f"{name} would do it in time"

    @rule(
        tokens=st.sampled_from(LENGTHS_TOKENS),
        due_s=st.floats(0.2, 40.0),
        late_s=st.floats(0.0, 60.0),
        times=st.integers(1, 4),
    )
    def jobs_come(self, tokens: int, due_s: float, late_s: float, times: int) -> None:
        for _ in range(times):
            self.count += 1
            job = held(self.core, self.now_s, f"j{self.count}", tokens, due_s, due_s + late_s)
            self.open[job.job_id] = self.known[job.job_id] = job
            self.do(self.core.handle(JobHeld(self.now_s, job)))

    @rule(seconds=st.floats(0.05, 2.0))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        for name, worker in self.workers.items():
            if worker.own is not None and worker.ends_at <= self.now_s:
                worker.own, worker.taken = None, worker.taken + 1
            if worker.own is None:
                self.tell(name)
        # A busy one tells that it is so, and what it has taken.
        for name, worker in self.workers.items():
            if worker.own is not None:
                said = readiness(name, worker.pace, ready=False, taken=worker.taken, incarnation=str(worker.number))
                self.do(self.core.handle(ReadinessHeard(self.now_s, said)))
        self.do(self.core.handle(ClockTicked(self.now_s)))

    @rule(number=st.integers(1, 40))
    def a_job_is_cancelled(self, number: int) -> None:
        self.open.pop(f"j{number}", None)
        self.do(self.core.handle(JobCancelled(self.now_s, f"j{number}")))

    @rule(number=st.integers(0, 4), pace=st.sampled_from([0.5, 1.0, 3.0]))
    def a_worker_starts_again(self, number: int, pace: float) -> None:
        """Moves it to another machine. What its process had is done again by its decode worker, as another job."""
        if (name := f"p{number}") in self.workers:
            self.workers[name] = Process(pace, self.workers[name].number + 1)
            self.tell(name)

    @rule(number=st.integers(0, 4), stored=st.booleans())
    def a_dispatch_ends(self, number: int, stored: bool) -> None:
        """One that failed makes the job wait again."""
        worker = self.workers.get(f"p{number}")
        if worker is None or worker.own is None:
            return
        job = self.known[worker.own]
        if not stored:
            self.dispatched.discard(job.job_id)
            self.open[job.job_id] = job
            worker.own = None
        result = DispatchResult.STORED if stored else DispatchResult.FAILED
        self.do(self.core.handle(DispatchEnded(self.now_s, job, f"p{number}", result)))

    @invariant()
    def nothing_is_lost(self) -> None:
        if hasattr(self, "core"):
            self.core.validate()
            assert len(self.core.queue) == len(self.open)

    def teardown(self) -> None:
        """Every job that waits is dispatched or refused before long."""
        if not hasattr(self, "core"):
            return
        for _ in range(400):
            if not self.open:
                break
            self.time_passes(SILENT_S / 4)
        assert not self.open


TestUnlikeWorkers = UnlikeWorkers.TestCase
TestUnlikeWorkers.settings = settings(max_examples=examples(60), stateful_step_count=40, deadline=None)
