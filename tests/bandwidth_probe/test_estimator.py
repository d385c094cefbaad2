import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from prfaas.bandwidth_probe.estimator import (
    TRAIN_PARTS,
    Announce,
    Instruction,
    LinkEstimator,
    PongHeard,
    ProbeFailed,
    SendPing,
    SendTrain,
    Tick,
    TrainArrived,
    dispersion_bytes_per_s,
)

LINK_SHARE = 0.01
TIMEOUT_S = 3.0


def make_estimator() -> LinkEstimator:
    return LinkEstimator(ping_interval_s=1.0, link_share=LINK_SHARE, timeout_s=TIMEOUT_S)


def even_arrivals(part_bytes: int, goodput: float) -> tuple[float, ...]:
    return tuple(at * part_bytes / goodput for at in range(TRAIN_PARTS))


def run(estimator: LinkEstimator, goodput: float, rtt_s: float, seconds: float) -> list[tuple[float, Instruction]]:
    """Against a link that answers at once and exactly."""
    told: list[tuple[float, Instruction]] = []
    for step in range(int(seconds * 10)):
        now_s = step / 10
        todo = estimator.handle(Tick(now_s))
        while todo:
            order = todo.pop(0)
            told.append((now_s, order))
            if isinstance(order, SendPing):
                todo += estimator.handle(PongHeard(rtt_s))
            elif isinstance(order, SendTrain):
                todo += estimator.handle(TrainArrived(now_s, order.part_bytes, even_arrivals(order.part_bytes, goodput)))
            estimator.validate()
    return told


@given(st.floats(1e5, 1e9), st.floats(0, 1))
def test_a_steady_link_is_estimated_exactly(goodput: float, rtt_s: float) -> None:
    announced = [order for _, order in run(make_estimator(), goodput, rtt_s, 5) if isinstance(order, Announce)]
    assert announced
    assert announced[-1].goodput_bytes_per_s == pytest.approx(goodput)
    assert announced[-1].rtt_s == pytest.approx(rtt_s)


@given(st.floats(1e7, 1e9))
def test_probing_costs_no_more_than_its_share(goodput: float) -> None:
    seconds = 60
    trains = [(at_s, order) for at_s, order in run(make_estimator(), goodput, 0.02, seconds) if isinstance(order, SendTrain)]
    sent_bytes = sum(order.parts * order.part_bytes for _, order in trains)
    assert sent_bytes <= LINK_SHARE * goodput * seconds * 1.02
    assert len(trains) >= 30


def test_a_link_that_changes_is_followed() -> None:
    estimator = make_estimator()
    run(estimator, 25e6, 0.02, 20)
    told = [(at_s, order) for at_s, order in run(estimator, 5e6, 0.02, 60) if isinstance(order, Announce)]
    assert told[-1][1].goodput_bytes_per_s == pytest.approx(5e6, rel=0.01)


def test_the_gap_in_a_train_does_not_count() -> None:
    steady = even_arrivals(1000, 1e6)
    late = tuple(at_s + (0.1 if at >= 8 else 0) for at, at_s in enumerate(steady))
    assert dispersion_bytes_per_s(1000, steady) == pytest.approx(1e6)
    stalled_first = tuple(at_s + (0.1 if at >= 4 else 0) for at, at_s in enumerate(steady))
    assert dispersion_bytes_per_s(1000, stalled_first) == pytest.approx(1e6)
    assert dispersion_bytes_per_s(1000, late) == pytest.approx(8000 / 0.108)  # no half of it is free of the gap


def test_a_train_that_tells_nothing_is_no_measurement() -> None:
    assert dispersion_bytes_per_s(1000, even_arrivals(1000, 1e6)[:-1]) is None
    assert dispersion_bytes_per_s(1000, (0.0,) * TRAIN_PARTS) is None
    estimator = make_estimator()
    estimator.handle(Tick(0.0))
    estimator.handle(PongHeard(0.02))
    estimator.handle(Tick(0.1))
    assert estimator.handle(TrainArrived(0.2, 4096, (0.0, 0.1))) == []
    estimator.validate()


def test_a_lost_train_ends_the_goodput_and_the_next_one_begins_anew() -> None:
    estimator = make_estimator()
    run(estimator, 25e6, 0.02, 3)
    estimator.handle(ProbeFailed(3.0, train=True))
    assert estimator.handle(PongHeard(0.02)) == []
    estimator.handle(TrainArrived(4.0, 4096, even_arrivals(4096, 1e6)))
    (announced,) = estimator.handle(PongHeard(0.02))
    assert isinstance(announced, Announce)
    assert announced.samples == 1
    assert announced.goodput_bytes_per_s == pytest.approx(1e6)


def test_a_lost_ping_ends_the_rtt_and_the_next_one_begins_anew() -> None:
    estimator = make_estimator()
    run(estimator, 25e6, 0.02, 3)
    assert estimator.handle(ProbeFailed(3.0, train=False)) == []
    assert estimator.handle(TrainArrived(3.5, 4096, even_arrivals(4096, 25e6))) == []
    (announced,) = estimator.handle(PongHeard(0.08))
    assert isinstance(announced, Announce)
    assert announced.rtt_s == 0.08


class Estimating(RuleBasedStateMachine):
    """Answers late, in any order, or never: at most one ping and one train are under way."""

    def __init__(self) -> None:
        super().__init__()
        self.estimator = make_estimator()
        self.now_s = 0.0
        self.ping = False
        self.train: SendTrain | None = None

    def obey(self, orders: list[Instruction]) -> None:
        for order in orders:
            match order:
                case SendPing():
                    assert not self.ping
                    self.ping = True
                case SendTrain():
                    assert self.train is None
                    self.train = order
                case Announce(rtt_s, goodput_bytes_per_s, samples):
                    assert rtt_s >= 0 and goodput_bytes_per_s > 0 and samples > 0

    @rule(seconds=st.floats(0, 5))
    def tick(self, seconds: float) -> None:
        self.now_s += seconds
        self.obey(self.estimator.handle(Tick(self.now_s)))

    @precondition(lambda self: self.ping)
    @rule(rtt_s=st.floats(0, 2))
    def pong(self, rtt_s: float) -> None:
        self.ping = False
        self.obey(self.estimator.handle(PongHeard(rtt_s)))

    @precondition(lambda self: self.train is not None)
    @rule(gaps_s=st.lists(st.floats(0, 1), max_size=TRAIN_PARTS))
    def arrive(self, gaps_s: list[float]) -> None:
        assert self.train is not None
        part_bytes, self.train = self.train.part_bytes, None
        arrivals_s = tuple(sum(gaps_s[: at + 1]) for at in range(len(gaps_s)))
        self.obey(self.estimator.handle(TrainArrived(self.now_s, part_bytes, arrivals_s)))

    @rule(train=st.booleans())
    def fail(self, train: bool) -> None:
        if train and self.train is not None:
            self.train = None
            self.obey(self.estimator.handle(ProbeFailed(self.now_s, train=True)))
        elif not train and self.ping:
            self.ping = False
            self.obey(self.estimator.handle(ProbeFailed(self.now_s, train=False)))

    @invariant()
    def valid(self) -> None:
        self.estimator.validate()


TestEstimating = Estimating.TestCase
TestEstimating.settings = settings(max_examples=50)
