"""Workers with the real budget and the real allocator between them, in simulated time: messages late or lost, dead processes."""

import heapq
import itertools
from collections.abc import Callable
from random import Random

import msgspec
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from prfaas.contracts.to_prefill import ALONE_AFTER_S, LEASE_S, EgressLease
from prfaas.contracts.to_probe import EGRESS_HEADROOM, EgressAsked
from prfaas.link.budget import EgressBudget
from prfaas_bandwidth_probe.egress import BUSY_S, REMEMBER_S, EgressAllocator
from tests.budget import examples

BUDGET = 1e7
STEP_S = 0.01
TIMEOUT_S = 0.5


class SimulatedWorker:
    """`produces(t)`: bytes/s that its prefill makes at a time. Sends whatever its budget allows."""

    def __init__(self, name: str, produces: Callable[[float], float], own: float | None = None) -> None:
        self.name, self.produces = name, produces
        self.budget = EgressBudget(own, leased=True, now_s=0.0)
        self.waiting = 0.0
        self.asked_at = self.ask_at = 0.0
        self.asking = self.alive = True
        self.question = 0

    def send(self, now: float) -> int:
        self.waiting += self.produces(now) * STEP_S
        sent = 0
        while self.waiting >= 1 and self.budget.allows(now):
            size = int(min(self.waiting, self.budget.frame_bytes() or 1 << 16))
            self.budget.spend(size)
            self.waiting -= size
            sent += size
        return sent


class Site:
    def __init__(self, workers: list[SimulatedWorker], budget: float = BUDGET) -> None:
        self.workers = {worker.name: worker for worker in workers}
        self.budget = budget
        self.allocator: EgressAllocator | None = EgressAllocator(budget, -LEASE_S)
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.delay_s: Callable[[], float | None] = lambda: 0.001
        """None: lost."""
        self.arrival_s: dict[str, float] = {}
        self.sent: list[tuple[float, str, int]] = []

    def at(self, when: float, do: Callable[[], None]) -> None:
        heapq.heappush(self.events, (when, next(self.order), do))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            while self.events and self.events[0][0] <= self.now:
                heapq.heappop(self.events)[2]()
            for worker in self.workers.values():
                if worker.alive:
                    if worker.asking and (worker.produces(self.now) > 0) is not (worker.produces(self.now - STEP_S) > 0):
                        worker.ask_at = self.now
                    if worker.asking and self.now >= worker.ask_at:
                        self._ask(worker)
                    self.sent.append((self.now, worker.name, worker.send(self.now)))
            self.now += STEP_S

    def _ask(self, worker: SimulatedWorker) -> None:
        worker.asked_at, worker.asking = self.now, False
        worker.question += 1
        question, asked_at = worker.question, self.now
        busy = worker.waiting >= 1 or worker.produces(self.now) > 0
        asked = EgressAsked(
            worker=worker.name,
            destination="home",
            transfers=int(busy),
            wanted_bytes_per_s=worker.budget.ask(self.now, int(worker.waiting)),
            held_bytes_per_s=worker.budget.held_bytes_per_s(self.now),
        )

        def arrive() -> None:
            lease = self.allocator.ask(asked, self.now, None, None) if self.allocator else None
            if self.allocator:
                self.allocator.validate(self.now)
            there_s = self.delay_s()
            if lease is not None and there_s is not None:
                self.at(self.now + there_s, lambda: answer(lease))

        def answer(lease: EgressLease) -> None:
            if worker.question == question and not worker.asking and worker.alive:
                worker.budget.take(lease, asked_at)
                worker.asking, worker.ask_at = True, self.now + lease.ask_again_s

        def give_up() -> None:
            if worker.question == question and not worker.asking:
                worker.asking, worker.ask_at = True, self.now + 0.2

        here_s = self.delay_s()
        if here_s is not None:
            # A connection keeps the order of what it carries.
            self.arrival_s[worker.name] = max(self.arrival_s.get(worker.name, 0.0), self.now + here_s)
            self.at(self.arrival_s[worker.name], arrive)
        self.at(self.now + TIMEOUT_S, give_up)

    def most_in_a_second(self, after: float = 0.0) -> float:
        steps = round(1 / STEP_S)
        by_step: dict[int, int] = {}
        for when, _, size in self.sent:
            by_step[round(when / STEP_S)] = by_step.get(round(when / STEP_S), 0) + size
        first, last = round(after / STEP_S), round(self.now / STEP_S)
        sums = [0, *itertools.accumulate(by_step.get(step, 0) for step in range(first, last))]
        return max(later - earlier for earlier, later in zip(sums, sums[steps:], strict=False))

    def sent_bytes(self, since: float, name: str = "") -> int:
        return sum(size for when, worker, size in self.sent if when >= since and name in ("", worker))


def flood(now: float) -> float:
    return 1e9


def silence(now: float) -> float:
    return 0.0


def during(start: float, end: float, rate: float = 1e9) -> Callable[[float], float]:
    return lambda now: rate if start <= now < end else 0.0


@settings(max_examples=examples(40), deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(st.data())
def test_no_second_sees_more_than_the_budget_whatever_is_sent_late_lost_or_dead(data: st.DataObject) -> None:
    budget = data.draw(st.sampled_from([2e6, 1e7, 1e8]), "budget")
    patterns = st.lists(st.tuples(st.floats(0, 10), st.floats(0, 4), st.floats(1e4, 1e9)), max_size=4)
    count = data.draw(st.integers(1, 6), "workers")
    workers, own = [], (1 - EGRESS_HEADROOM) * budget / count
    for number in range(count):
        pattern = data.draw(patterns, f"worker {number}")
        parts = [during(start, start + length, rate) for start, length, rate in pattern]
        workers.append(SimulatedWorker(f"w{number}", lambda now, parts=parts: sum(part(now) for part in parts), own))  # type: ignore[misc]
    site = Site(workers, budget)
    random = Random(data.draw(st.integers(0, 1 << 32), "seed"))
    late, lost = data.draw(st.sampled_from([0.001, 0.05, 0.4])), data.draw(st.sampled_from([0.0, 0.1, 0.5]))
    # None is lost before everyone was heard of once: a worker that the allocator never heard of it cannot count.
    site.delay_s = lambda: None if site.now > 0.5 and random.random() < lost else random.random() * late
    dies = data.draw(st.none() | st.floats(0, 8), "the allocator dies") if not lost else None
    if dies is not None:  # a new one that does not hear of everyone could not know better
        site.at(dies, lambda: setattr(site, "allocator", None))
        back = dies + data.draw(st.floats(0, 3), "and is back after")
        site.at(back, lambda: setattr(site, "allocator", EgressAllocator(budget, back)))
    site.run(12.0)
    assert site.most_in_a_second() <= budget


def test_the_budget_is_used_and_shared_evenly() -> None:
    site = Site([SimulatedWorker(f"w{number}", flood) for number in range(4)])
    site.run(10)
    assert site.sent_bytes(5.0) >= (1 - EGRESS_HEADROOM) * BUDGET * 5 * 0.99
    for number in range(4):
        assert site.sent_bytes(5.0, f"w{number}") == pytest.approx(site.sent_bytes(5.0) / 4, rel=0.02)


def test_what_is_sent_again_counts_against_the_budget() -> None:
    site = Site([SimulatedWorker(f"w{number}", flood) for number in range(3)])
    site.run(3.0)
    assert site.allocator is not None
    site.allocator.lose(0.1, site.now)
    site.run(LEASE_S + 1.0)
    assert site.sent_bytes(site.now - 1.0) == pytest.approx(0.9 * (1 - EGRESS_HEADROOM) * BUDGET, rel=0.02)
    site.allocator.lose(0.0, site.now)
    site.run(LEASE_S + 1.0)
    assert site.sent_bytes(site.now - 1.0) == pytest.approx((1 - EGRESS_HEADROOM) * BUDGET, rel=0.02)
    site.allocator.lose(1.0, site.now)
    site.run(LEASE_S + 1.0)
    assert site.sent_bytes(site.now - 1.0) > 0, "few segments on an idle link say little about it"


def test_who_wants_little_gets_it_and_the_others_share_the_rest() -> None:
    site = Site([SimulatedWorker("small", lambda now: 1e6), SimulatedWorker("a", flood), SimulatedWorker("b", flood)])
    site.run(10)
    assert site.sent_bytes(5.0, "small") == pytest.approx(5e6, rel=0.02)
    assert site.sent_bytes(5.0, "a") == pytest.approx(site.sent_bytes(5.0, "b"), rel=0.02)
    assert site.sent_bytes(5.0) >= 0.9 * BUDGET * 5


def test_an_idle_part_is_redistributed_and_taken_back_within_a_fifth_of_a_second() -> None:
    site = Site([SimulatedWorker("steady", flood), SimulatedWorker("late", during(5.0, 10.0))])
    site.run(5.0)
    assert site.sent_bytes(4.0, "steady") >= 0.9 * BUDGET
    site.run(2 * BUSY_S + 0.5)
    assert site.sent_bytes(5.0 + 2 * BUSY_S, "late") == pytest.approx((1 - EGRESS_HEADROOM) * BUDGET / 2 * 0.5, rel=0.1)
    site.workers["late"].waiting, site.workers["late"].produces = 0.0, silence
    at = site.now
    site.run(2 * BUSY_S + 0.5)
    assert site.sent_bytes(at + 2 * BUSY_S, "steady") >= 0.95 * (1 - EGRESS_HEADROOM) * BUDGET * 0.5


def test_without_an_allocator_each_goes_on_with_its_equal_part() -> None:
    site = Site([SimulatedWorker(f"w{number}", flood if number < 2 else silence) for number in range(4)])
    site.run(3.0)
    site.allocator = None
    site.run(ALONE_AFTER_S + 3.0)
    assert site.sent_bytes(site.now - 2.0) == pytest.approx((1 - EGRESS_HEADROOM) * BUDGET * 2 / 4 * 2, rel=0.05)
    site.allocator = EgressAllocator(BUDGET, site.now)
    site.run(5.0)
    assert site.sent_bytes(site.now - 1.0) >= 0.9 * BUDGET, "it has them share again"
    assert site.most_in_a_second() <= BUDGET


def test_the_part_of_a_dead_worker_is_kept_for_a_while_and_then_given_to_the_others() -> None:
    site = Site([SimulatedWorker("dies", flood), SimulatedWorker("lives", flood)])
    site.run(3.0)
    site.workers["dies"].alive = False
    site.run(LEASE_S + 1)
    assert site.sent_bytes(site.now - 0.5) == pytest.approx((1 - EGRESS_HEADROOM) * BUDGET / 2 * 0.5, rel=0.1)
    site.run(REMEMBER_S)
    assert site.sent_bytes(site.now - 0.5) >= 0.9 * BUDGET * 0.5


def test_the_part_of_a_worker_that_says_good_bye_is_free_at_once() -> None:
    allocator = EgressAllocator(BUDGET, -LEASE_S)
    staying = EgressAsked(worker="a", destination="home", transfers=1, wanted_bytes_per_s=1e9, held_bytes_per_s=0.0)
    for worker in ("b", "a"):
        allocator.ask(msgspec.structs.replace(staying, worker=worker), 0.0, None, None)
    allocator.ask(msgspec.structs.replace(staying, worker="b", transfers=0, leaving=True), 0.1, None, None)
    lease = allocator.ask(staying, 0.1, None, None)
    assert lease is not None and lease.bytes_per_s == lease.alone_bytes_per_s == (1 - EGRESS_HEADROOM) * BUDGET


def test_a_link_without_a_budget_is_only_shared_by_window() -> None:
    allocator = EgressAllocator(None, -LEASE_S)

    def ask(worker: str, transfers: int, wanted: float) -> EgressLease:
        asked = EgressAsked(
            worker=worker, destination="home", transfers=transfers, wanted_bytes_per_s=wanted, held_bytes_per_s=None
        )
        lease = allocator.ask(asked, 0.0, 1e7, 0.02)
        assert lease is not None
        return lease

    alone = ask("a", 1, 1e9)
    assert (alone.bytes_per_s, alone.share, alone.goodput_bytes_per_s, alone.rtt_s) == (None, 1.0, 1e7, 0.02)
    assert ask("b", 1, 1e9).share == pytest.approx(0.5)
    assert ask("b", 1, 1e6).share == pytest.approx(0.1)
    assert ask("a", 1, 1e9).share == pytest.approx(0.9)


def test_a_new_allocator_waits_until_it_may_have_heard_of_everyone() -> None:
    allocator = EgressAllocator(BUDGET, 0.0)
    asked = EgressAsked(worker="a", destination="home", transfers=1, wanted_bytes_per_s=1e9, held_bytes_per_s=BUDGET)
    assert allocator.ask(asked, 0.5, None, None) is None
    other = EgressAsked(worker="b", destination="home", transfers=1, wanted_bytes_per_s=1e9, held_bytes_per_s=0.0)
    lease = allocator.ask(other, 1.0, None, None)
    assert lease is not None and lease.bytes_per_s == 0.0, "the other one still holds everything"
    assert allocator.leased_bytes_per_s(1.0) == 0.0
