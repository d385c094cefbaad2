"""Order, put-off jobs, refusals, tenants and priorities of a site's queue."""

from collections import Counter

import hypothesis.strategies as st
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from prfaas_scheduler.queue.events import (
    Dispatch,
    Instruction,
    Job,
    JobArrived,
    JobGone,
    Refuse,
    TimePassed,
    WorkerGone,
    WorkerReady,
)
from prfaas_scheduler.queue.options import QueueOptions
from prfaas_scheduler.queue.site_queue import SiteQueue
from tests.budget import examples
from tests.scheduler.queue.jobs import MODEL, arrive, busy, dispatched, job, ready, refused


def drain(queue: SiteQueue, worker: str = "w0", now_s: float = 0.0) -> list[str]:
    """Jobs in the order in which the worker gets them, as if each took no time."""
    out: list[str] = []
    while got := dispatched(ready(queue, worker, now_s)):
        out += got
    return out


def test_a_job_that_finds_a_ready_worker_is_dispatched_at_once() -> None:
    queue = SiteQueue()
    assert ready(queue, "w0") == []
    assert arrive(queue, job("a")) == [Dispatch("a", "w0")]
    assert arrive(queue, job("b")) == []
    assert ready(queue, "w1") == [Dispatch("b", "w1")]


def test_jobs_run_in_the_order_of_their_due_dates() -> None:
    queue = SiteQueue()
    busy(queue)
    for name, due_s in (("late", 30.0), ("soon", 10.0), ("later", 40.0), ("next", 20.0)):
        assert arrive(queue, job(name, due_s=due_s)) == []
    assert drain(queue) == ["soon", "next", "late", "later"]


def test_what_would_be_late_puts_off_the_longest_and_it_runs_when_nothing_else_is_due() -> None:
    queue = SiteQueue()
    busy(queue)
    for name, work_s in (("short", 2.0), ("long", 6.0), ("middle", 3.0)):
        assert arrive(queue, job(name, work_s)) == []
    assert drain(queue) == ["short", "middle", "long"]


def test_a_job_that_was_put_off_runs_before_its_expiry_even_if_others_keep_coming() -> None:
    queue, now_s, got = SiteQueue(QueueOptions(put_off_limit_s=200.0)), 0.0, []
    busy(queue)
    arrive(queue, job("long", 8.0, expires_s=60.0))
    arrive(queue, job("beside", 4.0))
    for number in range(200):
        now_s += 0.5
        arrive(queue, job(f"short {number}", 1.0, now_s=now_s))
        if number % 2:
            got += [(now_s, name) for name in dispatched(ready(queue, "w0", now_s))]
        queue.validate()
    started = {name: at for at, name in got}
    assert 20 < started["long"] <= 52.0


def test_a_late_job_keeps_its_place_until_another_one_would_be_late_for_it() -> None:
    alone, followed = SiteQueue(), SiteQueue()
    for queue in (alone, followed):
        busy(queue)
        arrive(queue, job("first", 4.0))
        arrive(queue, job("late", 7.0))
    arrive(followed, job("next", 3.0, due_s=11.0))
    assert drain(alone) == ["first", "late"]
    assert drain(followed) == ["first", "next", "late"]


def test_a_job_that_was_put_off_has_its_turn_when_the_bound_is_near() -> None:
    queue = SiteQueue(QueueOptions(put_off_limit_s=5.0))
    busy(queue)
    for name, work_s in (("a", 4.0), ("long", 5.0), ("b", 4.0)):
        arrive(queue, job(name, work_s))
    assert dispatched(ready(queue, "w0", 0.5)) == ["a"]
    arrive(queue, job("later", 1.0, now_s=9.0))
    assert drain(queue, now_s=9.5) == ["b", "long", "later"], "it must end at 15 s, what came later by 19 s"


def test_a_surplus_is_refused_on_its_arrival_and_says_when_to_try_again() -> None:
    queue, now_s, refusals = SiteQueue(), 0.0, []
    ready(queue, "w0")
    running_until = 0.0
    for number in range(600):
        now_s += 0.5
        out = arrive(queue, job(f"{number}", 1.0, now_s=now_s))
        if now_s >= running_until:
            out += ready(queue, "w0", now_s)
        if dispatched(out):
            running_until = now_s + 1.0
        refusals += [each for each in out if isinstance(each, Refuse)]
    assert len(refusals) > 250, "half of the work is too much"
    assert all(each.retry_after_s >= 1.0 and "late" in each.message for each in refusals)
    assert refusals[-1].job_id > "300"


def test_what_cannot_end_before_its_expiry_is_refused_at_once() -> None:
    queue = SiteQueue()
    ready(queue, "w0")
    assert refused(arrive(queue, job("a", 5.0, due_s=1.0, expires_s=4.0))) == ["a"]


def test_jobs_without_any_worker_wait_and_are_refused_when_they_expire() -> None:
    queue = SiteQueue()
    assert arrive(queue, job("a", 1.0, expires_s=5.0)) == []
    assert queue.handle(TimePassed(3.0)) == []
    assert refused(queue.handle(TimePassed(4.5))) == ["a"]
    assert len(queue) == 0


def test_a_higher_priority_goes_first_and_is_put_off_for_no_lower_one() -> None:
    queue = SiteQueue()
    busy(queue)
    arrive(queue, job("low", 4.0))
    arrive(queue, job("high", 8.0, priority=1))
    assert drain(queue) == ["high", "low"]


def test_a_tenant_within_its_share_is_not_put_off_for_one_that_floods() -> None:
    queue = SiteQueue()
    busy(queue)
    flood = [job(f"flood {number}", 1.0, tenant="many") for number in range(40)]
    for each in flood:
        arrive(queue, each)
    assert all(name.startswith("flood") for name in refused(arrive(queue, job("one", 3.0, tenant="few"))))
    order = drain(queue)
    assert order.index("one") < 10


def test_a_tenant_that_waits_for_less_overtakes_one_that_waits_for_more_while_it_makes_none_late() -> None:
    queue = SiteQueue()
    busy(queue)
    for number in range(4):
        arrive(queue, job(f"many {number}", 1.0, due_s=20.0, tenant="many"))
    arrive(queue, job("few", 1.0, due_s=30.0, tenant="few"))
    assert dispatched(ready(queue, "w0")) == ["few"]
    assert drain(queue) == [f"many {number}" for number in range(4)]


def test_a_tenant_that_waits_for_less_overtakes_none_that_would_be_late_for_it() -> None:
    queue = SiteQueue()
    busy(queue)
    arrive(queue, job("many 0", 1.0, due_s=10.0, tenant="many"))
    arrive(queue, job("many 1", 9.0, due_s=10.5, tenant="many"))
    arrive(queue, job("few", 1.0, due_s=30.0, tenant="few"))
    arrive(queue, job("short", 0.4, due_s=31.0, tenant="other"))
    assert drain(queue) == ["short", "many 0", "few", "many 1"], "few fits before many 1 once many 0 is done"


def test_of_two_tenants_that_ask_alike_neither_is_served_alone() -> None:
    """Each keeps three jobs in the queue: who was served just now waits for less until it asks again."""
    queue = SiteQueue()
    busy(queue)
    for number in range(3):
        for tenant in ("east", "west"):
            arrive(queue, job(f"{tenant} {number}", 1.0, due_s=100.0, tenant=tenant, expires_s=900.0))
    served: list[str] = []
    for number in range(3, 27):
        (got,) = dispatched(ready(queue, "w0", float(number)))
        served.append(got.split()[0])
        # What ran before has ended: its tenant asks again.
        again = served[-2] if len(served) > 1 else "east"
        arrive(queue, job(f"{again} {number}", 1.0, now_s=float(number), due_s=100.0, tenant=again, expires_s=900.0))
    assert min(served.count("east"), served.count("west")) >= 8, served


@given(st.lists(st.tuples(st.floats(0.01, 3), st.floats(0, 5), st.sampled_from("aaab")), min_size=2, max_size=40))
def test_jobs_that_are_in_time_in_the_order_of_due_dates_stay_so_whoever_overtakes(jobs: list[tuple[float, float, str]]) -> None:
    queue, ends_s = SiteQueue(), 0.01
    busy(queue, work_s=0.01)
    for number, (work_s, slack_s, tenant) in enumerate(jobs):
        ends_s += work_s
        arrive(queue, job(str(number), work_s, due_s=ends_s + slack_s + 0.01, tenant=tenant, expires_s=900.0))
    now_s, done = 0.01, 0
    while got := dispatched(ready(queue, "w0", now_s)):
        number = int(got[0])
        now_s, done = now_s + jobs[number][0], done + 1
        assert now_s <= sum(each[0] for each in jobs[: number + 1]) + jobs[number][1] + 0.03
        queue.validate()
    assert done == len(jobs)


def test_a_job_that_only_another_worker_may_take_overtakes_nothing() -> None:
    queue = SiteQueue()
    busy(queue, 2)
    for number in range(4):
        arrive(queue, job(f"many {number}", 1.0, due_s=20.0, tenant="many"))
    arrive(queue, job("few", 1.0, due_s=30.0, tenant="few", worker="w1"))
    assert dispatched(ready(queue, "w0")) == ["many 0"]
    assert dispatched(ready(queue, "w1")) == ["few"]


def test_jobs_that_were_put_off_go_round_among_tenants_by_their_weights() -> None:
    queue = SiteQueue(QueueOptions(weights={"heavy": 3.0}, put_off_limit_s=900.0))
    busy(queue)
    for number in range(8):
        for tenant in ("heavy", "light"):
            arrive(queue, job(f"{tenant} {number}", 10.0, due_s=9.0, tenant=tenant, expires_s=900.0))
    first = drain(queue)[:8]
    assert sum(name.startswith("heavy") for name in first) == 6


def test_a_bound_job_waits_for_its_worker_and_keeps_no_other_job_waiting() -> None:
    queue = SiteQueue()
    busy(queue, 2)
    arrive(queue, job("bound", worker="w1", due_s=5.0))
    arrive(queue, job("free"))
    assert ready(queue, "w0") == [Dispatch("free", "w0")]
    assert ready(queue, "w0") == []
    assert ready(queue, "w1") == [Dispatch("bound", "w1")]


def test_a_job_bound_to_a_worker_that_is_gone_may_go_to_any() -> None:
    queue = SiteQueue()
    busy(queue, 2)
    arrive(queue, job("bound", worker="w1"))
    ready(queue, "w0")
    assert queue.handle(WorkerGone(0.5, "w1")) == [Dispatch("bound", "w0")]
    assert arrive(queue, job("again", worker="w1", now_s=1.0)) == []
    assert ready(queue, "w0", 2.0) == [Dispatch("again", "w0")]


def test_a_job_that_is_gone_is_dispatched_to_no_worker_and_one_that_waits_is_not_taken_twice() -> None:
    queue = SiteQueue()
    busy(queue)
    arrive(queue, job("a"))
    arrive(queue, job("a"))
    arrive(queue, job("b"))
    assert queue.handle(JobGone(0.1, "a")) == []
    assert queue.handle(JobGone(0.1, "unknown")) == []
    assert drain(queue, now_s=0.2) == ["b"]


def test_models_have_queues_of_their_own_and_a_worker_may_change_its_model() -> None:
    queue = SiteQueue()
    busy(queue)
    arrive(queue, job("other", model="n"))
    assert ready(queue, "w0", 1.0) == []
    assert queue.handle(WorkerReady(1.0, "w0", "n")) == [Dispatch("other", "w0")]
    queue.validate()
    assert arrive(queue, job("left", now_s=1.0)) == []
    assert len(queue) == 1


def test_no_length_class_falls_far_below_the_others() -> None:
    shares = {}
    for floor in (0.0, 0.5):
        queue, now_s, free_at, kept = SiteQueue(QueueOptions(class_floor=floor, put_off_limit_s=0.0)), 0.0, 0.0, Counter[str]()
        for number in range(4000):
            now_s += 1.0
            kind, work_s = ("long", 8.0) if number % 8 == 0 else ("short", 1.0)
            out = arrive(queue, job(f"{kind} {number}", work_s, now_s=now_s, prefill_tokens=100_000 if kind == "long" else 1000))
            if now_s >= free_at:
                out += ready(queue, "w0", now_s)
            for name in dispatched(out):
                kept[name.split()[0]] += 1
                free_at = now_s + (8.0 if name.startswith("long") else 1.0)
        shares[floor] = (kept["long"] / 500) / (kept["short"] / 3500)
    assert shares[0.0] < 0.35 < shares[0.5]


class AnyOrder(RuleBasedStateMachine):
    """Every job that arrives is dispatched once, refused once, or gone; none is lost and none goes to a busy worker."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = SiteQueue(QueueOptions(weights={"b": 2.5}, put_off_limit_s=20.0, max_jobs=200))
        self.now_s, self.count = 0.0, 0
        self.open: dict[str, Job] = {}
        self.ready: dict[str, float] = {}
        """Pace of each worker that is ready."""

    def took(self, instructions: list[Instruction]) -> None:
        for each in instructions:
            refused_job = self.open.pop(each.job_id)
            if isinstance(each, Dispatch):
                del self.ready[each.worker]
            else:
                assert each.retry_after_s >= 1 and each.message
                if refused_job.worker is None:
                    left_s = refused_job.due_at - self.now_s
                    assert all(refused_job.work_s * pace > left_s for pace in self.ready.values()), "a worker would do it in time"
                in_time = self.now_s - refused_job.arrived_at <= 1.0
                assert in_time or "no worker came" in each.message, "what was accepted is refused only at its expiry"

    @rule(
        work_s=st.floats(0.01, 12),
        due_s=st.floats(0, 15),
        late_s=st.floats(0, 60),
        tenant=st.sampled_from("abc"),
        priority=st.sampled_from([0, 0, 0, 1, -1]),
        worker=st.sampled_from([None, None, "w0", "w1", "w9"]),
        times=st.integers(1, 6),
    )
    def arrive(
        self, work_s: float, due_s: float, late_s: float, tenant: str, priority: int, worker: str | None, times: int
    ) -> None:
        for _ in range(times):
            self.count += 1
            new = job(
                str(self.count), work_s, now_s=self.now_s, due_s=due_s, expires_s=due_s + late_s,
                tenant=tenant, priority=priority, worker=worker,
            )  # fmt: skip
            self.open[new.job_id] = new
            self.took(self.queue.handle(JobArrived(self.now_s, new)))

    @rule(worker=st.sampled_from(["w0", "w1", "w2", "w3"]), pace=st.sampled_from([1.0, 1.0, 3.0, 0.5]))
    def ask(self, worker: str, pace: float) -> None:
        self.ready[worker] = pace
        self.took(self.queue.handle(WorkerReady(self.now_s, worker, MODEL, pace)))

    @rule(worker=st.sampled_from(["w0", "w1", "w2", "w3"]))
    def lose_worker(self, worker: str) -> None:
        self.ready.pop(worker, None)
        self.took(self.queue.handle(WorkerGone(self.now_s, worker)))

    @rule(number=st.integers(1, 60))
    def cancel(self, number: int) -> None:
        self.open.pop(str(number), None)
        self.took(self.queue.handle(JobGone(self.now_s, str(number))))

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.took(self.queue.handle(TimePassed(self.now_s)))

    @invariant()
    def holds(self) -> None:
        self.queue.validate()
        assert len(self.queue) == len(self.open)


AnyOrder.TestCase.settings = settings(max_examples=examples(150), stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase
