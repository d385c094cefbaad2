"""Leadership of one scheduler among several, in a world of processes that stop, break off, leave and start."""

from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from prfaas.contracts.to_scheduler import Lease
from prfaas_scheduler.leadership.events import (
    AskHolder,
    ConnectionLost,
    Due,
    Event,
    Follow,
    HolderGone,
    Instruction,
    Lead,
    LeaseOutrun,
    LeaseRead,
    LeaseStored,
    ReadLease,
    ReleaseAsked,
    StoreLease,
)
from prfaas_scheduler.leadership.leadership_core import LEASE_S, RENEW_EVERY_S, LeadershipCore


def lease_of(incarnation: str, term: int, *, released: bool = False) -> Lease:
    return Lease(holder=f"s-{incarnation}", incarnation=incarnation, term=term, released=released)


def leader(now_s: float = 0.0) -> LeadershipCore:
    """A core that leads since `now_s`, with revision 1."""
    core = LeadershipCore("s-a", "a")
    assert core.handle(Due(now_s)) == [ReadLease()]
    assert core.handle(LeaseRead(now_s, None, 0)) == [StoreLease(lease_of("a", 1), 0)]
    assert core.handle(LeaseStored(now_s, 1)) == [Lead(1)]
    return core


def test_the_first_scheduler_leads_at_once_and_until_its_lease_is_over() -> None:
    core = leader(5.0)
    assert core.leads(5.0 + LEASE_S - 0.01)
    assert not core.leads(5.0 + LEASE_S)


def test_a_renewal_extends_the_lease_from_the_moment_in_which_it_was_sent() -> None:
    core = leader()
    assert core.handle(Due(RENEW_EVERY_S / 2)) == []
    assert core.handle(Due(RENEW_EVERY_S)) == [StoreLease(lease_of("a", 1), 1)]
    assert core.handle(LeaseStored(RENEW_EVERY_S + 0.3, 2)) == []
    assert core.leads(RENEW_EVERY_S + LEASE_S - 0.01)
    assert not core.leads(RENEW_EVERY_S + LEASE_S)


def test_a_renewal_that_is_stored_too_late_ends_it() -> None:
    core = leader()
    core.handle(Due(1.0))
    assert [type(each) for each in core.handle(LeaseStored(1.0 + LEASE_S, 2))] == [Follow]


def test_one_that_stood_still_does_not_lead_when_it_wakes() -> None:
    core = leader()
    assert not core.leads(60.0)
    follow, read = core.handle(Due(60.0))
    assert isinstance(follow, Follow) and read == ReadLease()
    assert core.handle(LeaseRead(60.0, lease_of("b", 2), 9)) == [AskHolder("b")]
    assert not core.leads(60.0)


def test_a_break_of_the_connection_ends_it_although_it_is_over_at_once() -> None:
    core = leader()
    core.handle(Due(RENEW_EVERY_S))
    assert [type(each) for each in core.handle(ConnectionLost(0.5))] == [Follow]
    assert core.handle(LeaseStored(0.6, 2)) == [], "the answer is one to a question from before the break"
    assert not core.leads(0.6)


def test_a_standby_waits_for_a_whole_lease_of_silence_by_its_own_clock() -> None:
    core = LeadershipCore("s-b", "b")
    assert core.handle(LeaseRead(100.0, lease_of("a", 3), 7)) == [AskHolder("a")]
    assert core.handle(LeaseRead(100.0 + LEASE_S - 0.1, lease_of("a", 3), 7)) == [AskHolder("a")]
    assert core.handle(LeaseRead(100.0 + LEASE_S, lease_of("a", 3), 7)) == [StoreLease(lease_of("b", 4), 7)]
    assert core.handle(LeaseStored(100.1 + LEASE_S, 8)) == [Lead(4)]


def test_a_renewal_begins_the_silence_anew() -> None:
    core = LeadershipCore("s-b", "b")
    core.handle(LeaseRead(100.0, lease_of("a", 3), 7))
    assert core.handle(LeaseRead(101.0, lease_of("a", 3), 8)) == [AskHolder("a")]
    assert core.handle(LeaseRead(101.0 + LEASE_S - 0.1, lease_of("a", 3), 8)) == [AskHolder("a")]


def test_an_equal_revision_of_another_holder_begins_the_silence_anew() -> None:
    """The server came back without the bucket, and revisions begin at 1 again."""
    core = LeadershipCore("s-b", "b")
    core.handle(LeaseRead(100.0, lease_of("a", 3), 1))
    assert core.handle(LeaseRead(100.0 + LEASE_S, lease_of("c", 4), 1)) == [AskHolder("c")]


def test_a_holder_without_a_connection_is_replaced_at_once() -> None:
    core = LeadershipCore("s-b", "b")
    core.handle(LeaseRead(0.0, lease_of("a", 3), 7))
    assert core.handle(HolderGone(0.1, "somebody else")) == []
    assert core.handle(HolderGone(0.1, "a")) == [StoreLease(lease_of("b", 4), 7)]


def test_one_that_leaves_lets_another_begin_at_once_and_takes_nothing_more() -> None:
    core = leader()
    follow, store = core.handle(ReleaseAsked(0.5))
    assert isinstance(follow, Follow) and store == StoreLease(lease_of("a", 1, released=True), 1)
    assert core.handle(LeaseStored(0.5, 2)) == []
    assert core.handle(LeaseRead(9.0, None, 0)) == []
    other = LeadershipCore("s-b", "b")
    assert other.handle(LeaseRead(0.5, lease_of("a", 1, released=True), 2)) == [StoreLease(lease_of("b", 2), 2)]


def test_of_two_that_claim_the_same_revision_one_leads() -> None:
    core = LeadershipCore("s-b", "b")
    core.handle(LeaseRead(0.0, None, 0))
    assert core.handle(LeaseOutrun(0.1)) == [ReadLease()]
    assert core.handle(LeaseRead(0.1, lease_of("c", 1), 1)) == [AskHolder("c")]


@dataclass
class Bucket:
    lease: Lease | None = None
    revision: int = 0
    sequence: int = 0


@dataclass
class Process:
    core: LeadershipCore
    incarnation: str
    offset_s: float
    """Time that its monotonic clock shows beside the world's."""
    connected: bool = True
    broke: bool = False
    """Its connection has broken, which it has not heard yet."""
    stopped: bool = False
    alive: bool = True

    def may_act(self, now_s: float) -> bool:
        return self.alive and not self.broke and self.connected and self.core.leads(now_s + self.offset_s)


class Schedulers(RuleBasedStateMachine):
    """Processes with clocks of their own at one bucket. Questions are answered, lost, or answered when the process wakes."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.bucket = Bucket()
        self.processes: list[Process] = []
        self.terms: dict[int, str] = {}
        """Leader of each term since the bucket was made."""

    def some(self, which: int) -> Process | None:
        living = [process for process in self.processes if process.alive]
        return living[which % len(living)] if living else None

    def deliver(self, process: Process, event: Event, lost: set[str]) -> None:
        orders = process.core.handle(event)
        process.core.validate()
        for _ in range(8):
            if not orders:
                return
            order = orders.pop(0)
            answer = self.carry_out(process, order, lost)
            if answer is not None:
                orders += process.core.handle(answer)
                process.core.validate()

    def carry_out(self, process: Process, order: Instruction, lost: set[str]) -> Event | None:
        now_s, bucket = self.now_s + process.offset_s, self.bucket
        if isinstance(order, Lead):
            assert self.terms.setdefault(order.term, process.incarnation) == process.incarnation, "two leaders of one term"
            return None
        if isinstance(order, Follow) or not process.connected or "question" in lost:
            return None
        answer: Event | None = None
        match order:
            case ReadLease():
                answer = LeaseRead(now_s, bucket.lease, bucket.revision)
            case StoreLease(lease, revision):
                if revision != bucket.revision:
                    answer = LeaseOutrun(now_s)
                else:
                    bucket.sequence += 1
                    bucket.lease, bucket.revision = lease, bucket.sequence
                    answer = LeaseStored(now_s, bucket.revision)
            case AskHolder(incarnation):
                there = [other for other in self.processes if other.alive and other.connected]
                if incarnation not in {other.incarnation for other in there}:
                    answer = HolderGone(now_s, incarnation)
        return None if "answer" in lost else answer

    @rule(offset_s=st.floats(-1000, 1000))
    def begin(self, offset_s: float) -> None:
        if sum(process.alive for process in self.processes) < 3:
            name = f"i{len(self.processes)}"
            self.processes.append(Process(LeadershipCore(f"s-{name}", name), name, offset_s))

    @rule(which=st.integers(0, 9), lost=st.sets(st.sampled_from(["question", "answer"]), max_size=1))
    def look(self, which: int, lost: set[str]) -> None:
        process = self.some(which)
        if process is None or process.stopped:
            return
        if process.broke:
            process.broke = False
            self.deliver(process, ConnectionLost(self.now_s + process.offset_s), lost)
        self.deliver(process, Due(self.now_s + process.offset_s), lost)

    @rule(seconds=st.floats(0.01, 2 * LEASE_S))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(which=st.integers(0, 9))
    def stop_or_go_on(self, which: int) -> None:
        if process := self.some(which):
            process.stopped = not process.stopped

    @rule(which=st.integers(0, 9))
    def break_off(self, which: int) -> None:
        if process := self.some(which):
            process.connected, process.broke = False, True

    @rule(which=st.integers(0, 9))
    def come_back(self, which: int) -> None:
        """The library dials again only in a process that runs, and has told it of the break before."""
        if (process := self.some(which)) and not process.stopped and not process.connected:
            process.connected = True

    @rule(which=st.integers(0, 9))
    def die(self, which: int) -> None:
        if process := self.some(which):
            process.alive = process.connected = False

    @rule(which=st.integers(0, 9))
    def leave(self, which: int) -> None:
        process = self.some(which)
        if process is not None and not process.stopped:
            self.deliver(process, ReleaseAsked(self.now_s + process.offset_s), set())
            process.alive = process.connected = False

    @rule()
    def lose_the_bucket(self) -> None:
        """The server dies: all connections break, and it is back without the bucket."""
        self.bucket = Bucket()
        self.terms = {}
        for process in self.processes:
            process.connected, process.broke = False, True

    @invariant()
    def one_leads(self) -> None:
        acting = [process.incarnation for process in self.processes if process.may_act(self.now_s)]
        assert len(acting) <= 1, f"{acting} lead at once"

    def teardown(self) -> None:
        """Checks that one leads soon where one is left."""
        left = [process for process in self.processes if process.alive]
        for process in left:
            process.stopped, process.connected = False, True
        for _ in range(12):
            self.now_s += LEASE_S / 6
            for process in left:
                if process.broke:
                    process.broke = False
                    self.deliver(process, ConnectionLost(self.now_s + process.offset_s), set())
                self.deliver(process, Due(self.now_s + process.offset_s), set())
            self.one_leads()
        assert not left or any(process.may_act(self.now_s) for process in left), "none leads"


TestSchedulers = Schedulers.TestCase
