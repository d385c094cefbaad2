"""The dispatcher's core, alone and in a world whose processes die at every moment."""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from prfaas.contracts.to_scheduler import PrefillReadiness
from prfaas_scheduler.dispatch_core import QUIET_S, SILENT_S, UNTAKEN_S, DispatchCore
from prfaas_scheduler.dispatch_events import (
    AskWorker,
    ClockTicked,
    DispatchEnded,
    DispatchResult,
    Instruction,
    JobCancelled,
    JobHeld,
    ReadinessHeard,
    SendHome,
    WorkerAbsent,
)
from prfaas_scheduler.queue.events import Dispatch, Job, Refuse
from prfaas_scheduler.queue.site_queue import SiteQueue
from tests.budget import examples

MODEL = "m"
WORKERS = ("a", "b", "c")


def make_job(
    job_id: str,
    *,
    now_s: float = 0.0,
    due_s: float = 10.0,
    work_s: float = 1.0,
    worker: str | None = None,
    of_other_site: bool = False,
) -> Job:
    return Job(
        job_id=job_id,
        model=MODEL,
        prefill_tokens=1000,
        work_s=work_s,
        arrived_at=now_s,
        due_at=now_s + due_s,
        expires_at=now_s + 100.0,
        worker=worker,
        of_other_site=of_other_site,
    )


def readiness(worker: str, *, ready: bool = True, taken: int = 0, incarnation: str = "i") -> PrefillReadiness:
    points = ((1000.0, 1.0),)
    return PrefillReadiness(worker=worker, incarnation=incarnation, model=MODEL, ready=ready, taken=taken, prefill_points=points)


@pytest.fixture
def core() -> DispatchCore:
    return DispatchCore(SiteQueue())


def hear(core: DispatchCore, now_s: float, worker: str = "a", **fields: object) -> list[Instruction]:
    instructions = core.handle(ReadinessHeard(now_s, readiness(worker, **fields)))  # type: ignore[arg-type]
    core.validate()
    return instructions


def test_a_ready_worker_gets_the_job_that_is_due_first(core: DispatchCore) -> None:
    assert core.handle(JobHeld(0.0, make_job("late", due_s=20.0))) == []
    assert core.handle(JobHeld(0.0, make_job("soon", due_s=10.0))) == []
    assert hear(core, 1.0) == [Dispatch("soon", "a")]
    assert core.outstanding("a") == 1


def test_a_sign_of_readiness_that_a_dispatch_has_crossed_brings_no_second_job(core: DispatchCore) -> None:
    for name in ("j1", "j2"):
        core.handle(JobHeld(0.0, make_job(name)))
    assert hear(core, 1.0) == [Dispatch("j1", "a")]
    assert hear(core, 1.1) == [], "said before the job came"
    assert hear(core, 1.2, ready=False, taken=1) == []
    assert hear(core, 2.0, taken=1) == [Dispatch("j2", "a")]


def test_a_job_that_never_comes_to_its_worker_bars_it_for_a_while_only(core: DispatchCore) -> None:
    core.handle(JobHeld(0.0, make_job("j1")))
    hear(core, 1.0)
    core.handle(JobHeld(1.5, make_job("j2", now_s=1.5)))
    assert hear(core, 2.0) == []
    assert hear(core, 1.1 + UNTAKEN_S) == [Dispatch("j2", "a")]


def test_a_silent_worker_gets_no_job_and_one_that_was_started_again_is_a_new_one(core: DispatchCore) -> None:
    hear(core, 0.0, taken=7)
    core.handle(ClockTicked(SILENT_S + 0.1))
    assert core.models() == set()
    assert core.handle(JobHeld(4.0, make_job("j1", now_s=4.0))) == []
    assert hear(core, 5.0, incarnation="other") == [Dispatch("j1", "a")]
    core.validate()


def test_a_worker_that_takes_jobs_by_itself_is_ready_no_more(core: DispatchCore) -> None:
    hear(core, 0.0)
    hear(core, 0.5, ready=False, taken=1)
    assert core.handle(JobHeld(1.0, make_job("j1", now_s=1.0))) == []
    assert hear(core, 2.0, taken=1) == [Dispatch("j1", "a")]


@pytest.mark.parametrize(("result", "again"), [(DispatchResult.FAILED, [Dispatch("j1", "a")]), (DispatchResult.KNOWN, [])])
def test_a_worker_whose_job_did_not_come_is_ready_still(
    core: DispatchCore, result: DispatchResult, again: list[Instruction]
) -> None:
    job = make_job("j1")
    core.handle(JobHeld(0.0, job))
    hear(core, 1.0)
    assert core.handle(DispatchEnded(2.0, job, "a", result)) == again
    core.validate()
    if not again:
        assert core.handle(JobHeld(3.0, make_job("j2", now_s=3.0))) == [Dispatch("j2", "a")]


def test_a_cancelled_job_goes_to_no_worker(core: DispatchCore) -> None:
    core.handle(JobHeld(0.0, make_job("j1")))
    core.handle(JobCancelled(0.5, "j1"))
    assert hear(core, 1.0) == []


def test_a_job_waits_for_the_worker_that_has_its_prefix_and_for_no_dead_one(core: DispatchCore) -> None:
    hear(core, 0.0, "a")
    hear(core, 0.0, "b", ready=False)
    hear(core, 0.1, "b")
    assert core.handle(JobHeld(0.2, make_job("j1", worker="b"))) == [Dispatch("j1", "b")]
    assert core.handle(JobHeld(0.3, make_job("j2", now_s=0.3, worker="b"))) == []
    hear(core, 2.0, "a")
    assert core.handle(ClockTicked(0.2 + SILENT_S))[0] == Dispatch("j2", "a")


def test_a_quiet_worker_is_asked_whether_it_is_there_and_lost_when_it_is_not(core: DispatchCore) -> None:
    hear(core, 0.0, "a", ready=False)
    assert core.handle(ClockTicked(QUIET_S)) == []
    assert core.handle(ClockTicked(QUIET_S + 0.1)) == [AskWorker("a")]
    assert core.handle(ClockTicked(QUIET_S + 0.2)) == [], "the question is out"
    hear(core, 1.4, "a", ready=False)
    assert core.handle(WorkerAbsent(1.5, "a", asked_at=QUIET_S + 0.1)) == [] and core.models() == {MODEL}
    core.handle(WorkerAbsent(1.5, "a", asked_at=1.45))
    core.handle(WorkerAbsent(1.6, "a", asked_at=1.55))
    core.validate()
    assert core.models() == set()


def test_jobs_of_other_sites_go_home_when_the_last_worker_is_lost_and_own_ones_wait_for_another(core: DispatchCore) -> None:
    for worker in ("a", "b"):
        hear(core, 0.0, worker, ready=False)
    core.handle(JobHeld(0.5, make_job("own")))
    core.handle(JobHeld(0.5, make_job("theirs", of_other_site=True)))
    assert core.handle(WorkerAbsent(1.0, "a", asked_at=0.9)) == [], "another worker is there"
    assert core.handle(WorkerAbsent(1.0, "b", asked_at=0.9)) == [SendHome("theirs")]
    core.validate()
    core.handle(JobHeld(1.1, make_job("late", of_other_site=True)))
    assert core.handle(ClockTicked(1.2)) == [SendHome("late")], "a job that comes after the loss waits no longer"
    assert hear(core, 2.0) == [Dispatch("own", "a")]


def test_a_stopped_worker_is_lost_by_its_silence(core: DispatchCore) -> None:
    hear(core, 0.0, ready=False)
    core.handle(JobHeld(0.5, make_job("theirs", of_other_site=True)))
    assert SendHome("theirs") not in core.handle(ClockTicked(SILENT_S))
    assert core.handle(ClockTicked(SILENT_S + 0.1)) == [SendHome("theirs")]


def test_work_is_predicted_from_what_the_workers_observe(core: DispatchCore) -> None:
    assert core.work_s(MODEL, 1000, 10.0) == 0.0
    hear(core, 0.0)
    assert core.work_s(MODEL, 1000, 10.0) == 1.0


def test_a_prediction_alone_refuses_nothing_while_a_worker_is_ready(core: DispatchCore) -> None:
    hear(core, 0.0)
    assert core.work_s(MODEL, 100_000, 10.0) == pytest.approx(9.0), "100 s by the points: it is tried all the same"
    hear(core, 0.1, ready=False)
    assert core.work_s(MODEL, 100_000, 10.0) == pytest.approx(100.0)


# ---- a world in which dispatchers die


@dataclass
class Process:
    """A prefill worker."""

    name: str
    taken: int = 0
    running: str | None = None


@dataclass
class Dispatcher:
    core: DispatchCore = field(default_factory=lambda: DispatchCore(SiteQueue()))
    held: set[str] = field(default_factory=set)
    doing: list[Dispatch] = field(default_factory=list)
    """Dispatches of which nothing is stored yet."""
    stored: list[Dispatch] = field(default_factory=list)
    """Dispatches that are stored, and still in the site's queue."""


class DispatchersDie(RuleBasedStateMachine):
    """JetStream keeps what is not acknowledged, and knows the names of all jobs that were ever dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.queued: dict[str, bool] = {}
        """Jobs in the site's queue; True: delivered to the living dispatcher."""
        self.ever_dispatched: set[str] = set()
        self.own: dict[str, list[str]] = {name: [] for name in WORKERS}
        self.workers = {name: Process(name) for name in WORKERS}
        self.runs: dict[str, int] = {}
        self.submitted = 0
        self.refused: set[str] = set()
        self.dispatcher: Dispatcher | None = Dispatcher()

    def do(self, instructions: list[Instruction]) -> None:
        assert self.dispatcher is not None
        for instruction in instructions:
            if isinstance(instruction, Dispatch):
                self.dispatcher.doing.append(instruction)
            elif not isinstance(instruction, AskWorker):  # it is only slow
                assert isinstance(instruction, Refuse)
                self.refused.add(instruction.job_id)
                del self.queued[instruction.job_id]

    def put(self, job_id: str, worker: str) -> bool:
        """Stores a dispatched job, once."""
        if job_id in self.ever_dispatched:
            return False
        self.ever_dispatched.add(job_id)
        self.own[worker].append(job_id)
        return True

    @rule(seconds=st.floats(0.01, 2.0))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        if self.dispatcher is not None:
            self.do(self.dispatcher.core.handle(ClockTicked(self.now_s)))

    @rule()
    def a_job_is_submitted(self) -> None:
        self.submitted += 1
        self.queued[f"j{self.submitted}"] = False

    @precondition(lambda self: self.dispatcher is not None)
    @rule()
    def the_dispatcher_pulls(self) -> None:
        assert self.dispatcher is not None
        waiting = [job_id for job_id, held in self.queued.items() if not held]
        if waiting:
            self.queued[waiting[0]] = True
            job = make_job(waiting[0], now_s=self.now_s, due_s=1e6)
            self.do(self.dispatcher.core.handle(JobHeld(self.now_s, job)))

    @precondition(lambda self: self.dispatcher is not None)
    @rule(name=st.sampled_from(WORKERS))
    def a_worker_says_whether_it_is_ready(self, name: str) -> None:
        assert self.dispatcher is not None
        worker = self.workers[name]
        said = readiness(name, ready=worker.running is None, taken=worker.taken)
        self.do(self.dispatcher.core.handle(ReadinessHeard(self.now_s, said)))

    @precondition(lambda self: self.dispatcher is not None and self.dispatcher.doing)
    @rule(outcome=st.sampled_from(["stored", "failed", "unknown"]))
    def a_dispatch_goes_on(self, outcome: str) -> None:
        """`unknown`: stored, but the answer was lost, so the dispatcher takes it for failed."""
        assert self.dispatcher is not None
        dispatch = self.dispatcher.doing.pop(0)
        new = outcome != "failed" and self.put(dispatch.job_id, dispatch.worker)
        if outcome == "stored":
            result = DispatchResult.STORED if new else DispatchResult.KNOWN
            self.dispatcher.stored.append(dispatch)
        else:
            result = DispatchResult.FAILED
        job = make_job(dispatch.job_id, now_s=self.now_s, due_s=1e6)
        self.do(self.dispatcher.core.handle(DispatchEnded(self.now_s, job, dispatch.worker, result)))

    @precondition(lambda self: self.dispatcher is not None and self.dispatcher.stored)
    @rule()
    def a_dispatched_job_leaves_the_queue(self) -> None:
        assert self.dispatcher is not None
        self.queued.pop(self.dispatcher.stored.pop(0).job_id, None)

    @precondition(lambda self: self.dispatcher is not None)
    @rule()
    def the_dispatcher_dies(self) -> None:
        self.dispatcher = None
        self.queued = dict.fromkeys(self.queued, False)

    @precondition(lambda self: self.dispatcher is None)
    @rule()
    def another_dispatcher_begins(self) -> None:
        self.dispatcher = Dispatcher()

    @precondition(lambda self: self.dispatcher is None)
    @rule(name=st.sampled_from(WORKERS), dies=st.booleans())
    def a_worker_takes_a_job_by_itself(self, name: str, dies: bool) -> None:
        """`dies`: before it has removed the job from the site's queue."""
        if self.queued and self.workers[name].running is None:
            job_id = next(iter(self.queued))
            self.put(job_id, name)
            if not dies:
                del self.queued[job_id]

    @rule(name=st.sampled_from(WORKERS))
    def a_worker_begins(self, name: str) -> None:
        worker = self.workers[name]
        if worker.running is None and self.own[name]:
            worker.running = self.own[name].pop(0)
            worker.taken += 1
            self.runs[worker.running] = self.runs.get(worker.running, 0) + 1

    @rule(name=st.sampled_from(WORKERS))
    def a_worker_ends(self, name: str) -> None:
        self.workers[name].running = None

    @invariant()
    def nothing_runs_twice(self) -> None:
        assert all(runs == 1 for runs in self.runs.values())
        if self.dispatcher is not None:
            self.dispatcher.core.validate()

    def teardown(self) -> None:
        """Lets a dispatcher live, and expects that every job is run once."""
        if self.dispatcher is None:
            self.another_dispatcher_begins()
        for _ in range(20 * (self.submitted + 1)):
            self.time_passes(1.0)
            self.the_dispatcher_pulls()
            for name in WORKERS:
                self.a_worker_begins(name)
                self.a_worker_ends(name)
                self.a_worker_says_whether_it_is_ready(name)
            assert self.dispatcher is not None
            while self.dispatcher.doing:
                self.a_dispatch_goes_on("stored")
            while self.dispatcher.stored:
                self.a_dispatched_job_leaves_the_queue()
            self.nothing_runs_twice()
        assert not self.queued
        assert self.runs.keys() | self.refused == {f"j{number}" for number in range(1, self.submitted + 1)}
        assert not self.refused, "all of it is due in a million seconds"


TestDispatchersDie = DispatchersDie.TestCase
TestDispatchersDie.settings = settings(max_examples=examples(60), stateful_step_count=40, deadline=None)
