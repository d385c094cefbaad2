import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from prfaas.contracts.to_scheduler import LinkEstimate
from prfaas_bandwidth_probe.estimator import LEAST_PARTS, TRAIN_PARTS, LinkEstimator
from prfaas_bandwidth_probe.events import (
    Announce,
    DeepTrainAnswered,
    Instruction,
    PongHeard,
    Probe,
    ProbeFailed,
    SendPing,
    SendTrain,
    Tick,
    TrainAnswered,
    TransferReported,
)
from tests.bandwidth_probe.links_at_hand import LINK_SHARE, TIMEOUT_S, answered, make_estimator, run, run_after_pauses
from tests.budget import examples


def announcements(told: list[tuple[float, Instruction]]) -> list[LinkEstimate]:
    return [order.estimate for _, order in told if isinstance(order, Announce)]


@given(st.floats(1e5, 1e9), st.floats(0, 1))
def test_a_steady_link_is_estimated_exactly(goodput: float, rtt_s: float) -> None:
    announced = announcements(run(make_estimator(), goodput, rtt_s, 5))
    assert announced[-1].goodput_bytes_per_s == pytest.approx(goodput, rel=1e-6)
    assert announced[-1].rtt_s == pytest.approx(rtt_s)


@pytest.mark.slow
@given(st.floats(1e7, 1e9), st.floats(0.001, 0.08))
def test_probing_costs_no_more_than_its_share(goodput: float, rtt_s: float) -> None:
    """Five simulated minutes pay for the first deep trains, which find out how much the link carries."""
    seconds = 300
    trains = [(at_s, order) for at_s, order in run(make_estimator(), goodput, rtt_s, seconds) if isinstance(order, SendTrain)]
    sent_bytes = sum(order.parts * order.part_bytes for _, order in trains)
    assert sent_bytes <= LINK_SHARE * goodput * seconds * 1.05
    assert sum(not order.deep and at_s < 60 for at_s, order in trains) >= 30


@given(st.floats(1e5, 1e9), st.floats(1e5, 1e8))
def test_under_a_budget_no_second_sees_more_than_a_few_percent_of_it_and_kv_gets_no_more(goodput: float, budget: float) -> None:
    estimator = LinkEstimator(
        "far", "home", ping_interval_s=1.0, link_share=LINK_SHARE, timeout_s=TIMEOUT_S, budget_bytes_per_s=budget
    )  # fmt: skip
    told = run(estimator, goodput, 0.02, 60)
    trains = [(at_s, order.parts * order.part_bytes) for at_s, order in told if isinstance(order, SendTrain)]
    assert all(size_bytes <= max(0.02 * budget, 16 * 512) for _, size_bytes in trains)
    first_bytes = trains[0][1]
    assert (
        sum(size_bytes for _, size_bytes in trains) - first_bytes <= LINK_SHARE * min(goodput, budget) * 60 * 1.05 + first_bytes
    )
    assert announcements(told)[-1].goodput_bytes_per_s == pytest.approx(min(goodput, budget), rel=1e-6)


def test_jitter_confidence_and_age_say_how_much_the_figures_are_worth() -> None:
    estimator = make_estimator()
    run(estimator, 25e6, 0.02, 20)
    (steady,) = announcements(estimator_says(estimator, 20.0, 0.02))
    assert steady.jitter_s == pytest.approx(0.0) and steady.confidence == 1.0 and steady.age_s <= 2.0
    for step, rtt_s in enumerate((0.03, 0.02, 0.03, 0.02)):
        (shaky,) = announcements(estimator_says(estimator, 30.0 + step, rtt_s))
    assert shaky.jitter_s == pytest.approx(0.01) and shaky.rtt_s == 0.02
    assert shaky.age_s >= 10.0
    estimator.handle(ProbeFailed(34.0, Probe.TRAIN))
    estimator.handle(answered(35.0, SendTrain(16, 4096), 25e6))
    (anew,) = announcements(estimator_says(estimator, 35.0, 0.02))
    assert anew.confidence == pytest.approx(0.2)


def estimator_says(estimator: LinkEstimator, now_s: float, rtt_s: float) -> list[tuple[float, Instruction]]:
    return [(now_s, order) for order in estimator.handle(PongHeard(now_s, rtt_s))]


@settings(max_examples=examples(40))
@given(st.floats(1e6, 1e8), st.floats(0.005, 0.08))
def test_an_idle_link_is_known_although_every_train_begins_slowly(goodput: float, rtt_s: float) -> None:
    estimator = make_estimator()
    sent = run_after_pauses(estimator, goodput, rtt_s, 0.0, 30.0)
    assert 0.55 * goodput <= (estimator.goodput_bytes_per_s or 0.0) <= 1.001 * goodput
    assert sum(order.deep for order in sent) <= 8


@pytest.mark.parametrize(("goodput", "rtt_s", "seconds"), [(6e6, 0.005, 15.0), (6e6, 0.02, 180.0), (100e6, 0.005, 60.0)])
def test_an_idle_link_that_falls_is_found_when_a_deep_train_may_be_sent_again(
    goodput: float, rtt_s: float, seconds: float
) -> None:
    estimator = make_estimator()
    run_after_pauses(estimator, goodput, rtt_s, 0.0, 30.0)
    run_after_pauses(estimator, goodput / 10, rtt_s, 30.0, seconds)
    assert estimator.goodput_bytes_per_s == pytest.approx(goodput / 10, rel=0.1)


def test_what_transfers_delivered_is_believed_while_the_link_is_idle_until_short_trains_fall() -> None:
    estimator = make_estimator()
    run_after_pauses(estimator, 6e6, 0.02, 0.0, 3.0)
    estimator.handle(TransferReported(3.0, 8e6))
    run_after_pauses(estimator, 6e6, 0.02, 3.0, 10.0)
    assert estimator.goodput_bytes_per_s == 8e6, "beyond the seconds in which it counts by itself"
    estimator.handle(ProbeFailed(13.0, Probe.DEEP_TRAIN))
    assert estimator.goodput_bytes_per_s is not None and estimator.goodput_bytes_per_s < 2e6


@pytest.mark.parametrize("budget", [8e6, 1e6])
def test_a_train_that_the_budget_cuts_short_does_not_contradict_transfers(budget: float) -> None:
    estimator = LinkEstimator(
        "far", "home", ping_interval_s=1.0, link_share=LINK_SHARE, timeout_s=TIMEOUT_S, budget_bytes_per_s=budget
    )
    run_after_pauses(estimator, 8e6, 0.08, 0.0, 3.0)
    estimator.handle(TransferReported(3.0, 0.96 * budget))
    sent = run_after_pauses(estimator, 8e6, 0.08, 3.0, 300.0)
    assert estimator.goodput_bytes_per_s == pytest.approx(0.96 * budget)
    assert all(order.parts * order.part_bytes <= max(0.02 * budget, TRAIN_PARTS * 512) for order in sent)


@given(st.floats(0, 0.1))
def test_noise_does_not_move_the_estimate(noise_s: float) -> None:
    announced = announcements(run(make_estimator(), 25e6, 0.02, 90, noise_s))
    assert announced[-1].goodput_bytes_per_s == pytest.approx(25e6, rel=1e-6)


@pytest.mark.parametrize("after", [5e6, 100e6])
def test_a_link_that_changes_is_followed_within_seconds(after: float) -> None:
    estimator = make_estimator()
    run(estimator, 25e6, 0.02, 20)
    announced = announcements(run(estimator, after, 0.02, 10, start_s=20.0))
    assert announced[-1].goodput_bytes_per_s == pytest.approx(after, rel=1e-6)


def test_a_queue_on_the_link_does_not_make_it_look_faster() -> None:
    estimator = make_estimator()
    run(estimator, 25e6, 0.02, 20)
    for step in range(20):
        queue_s = 0.1 + 0.01 * (step % 3)
        estimator.handle(TrainAnswered(20.0 + step, 0.02 + queue_s, 250_000, 0.02 + queue_s))
        assert estimator.goodput_bytes_per_s is not None and estimator.goodput_bytes_per_s <= 25e6 * 1.001


def test_a_slow_tiny_message_does_not_make_it_look_faster_either() -> None:
    """The first one has nothing to be compared with but the pings."""
    estimator = make_estimator()
    estimator.handle(PongHeard(0.0, 0.02))
    estimator.handle(TrainAnswered(0.1, 0.06, 65_536, 0.02 + 65_536 / 25e6))
    assert estimator.goodput_bytes_per_s == pytest.approx(25e6)


def test_what_transfers_delivered_counts_for_a_while() -> None:
    estimator = make_estimator()
    run(estimator, 5e6, 0.02, 5)  # the share of a train beside them
    estimator.handle(TransferReported(5.0, 25e6))
    estimator.handle(TransferReported(5.0, 1e6))
    assert estimator.goodput_bytes_per_s == 25e6
    announced = announcements(run(estimator, 5e6, 0.02, 120, start_s=5.0))
    assert announced[0].goodput_bytes_per_s == 25e6
    assert announced[-1].goodput_bytes_per_s == pytest.approx(5e6, rel=1e-6), "a deep train has found otherwise"


def test_a_lost_train_ends_the_goodput_and_the_next_one_begins_anew() -> None:
    estimator = make_estimator()
    run(estimator, 25e6, 0.02, 3)
    estimator.handle(ProbeFailed(3.0, Probe.TRAIN))
    assert estimator.handle(PongHeard(4.0, 0.02)) == []
    estimator.handle(answered(4.0, SendTrain(16, 4096), 1e6))
    (announced,) = estimator.handle(PongHeard(4.0, 0.02))
    assert isinstance(announced, Announce)
    assert (announced.estimate.source, announced.estimate.destination) == ("far", "home")
    assert announced.estimate.samples == 1
    assert announced.estimate.goodput_bytes_per_s == pytest.approx(1e6)


def test_a_lost_ping_ends_the_rtt_and_the_next_one_begins_anew() -> None:
    estimator = make_estimator()
    run(estimator, 25e6, 0.02, 3)
    assert estimator.handle(ProbeFailed(3.0, Probe.PING)) == []
    assert estimator.handle(answered(3.5, SendTrain(16, 4096), 25e6)) == []
    (announced,) = estimator.handle(PongHeard(4.0, 0.08))
    assert isinstance(announced, Announce)
    assert announced.estimate.rtt_s == 0.08


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
                case SendTrain(parts, part_bytes, _):
                    assert self.train is None and parts >= LEAST_PARTS and part_bytes > 0
                    self.train = order
                case Announce(estimate):
                    assert estimate.rtt_s >= 0 and estimate.goodput_bytes_per_s > 0 and estimate.samples > 0
                    assert estimate.jitter_s >= 0 and 0 < estimate.confidence <= 1 and estimate.age_s >= 0

    @rule(seconds=st.floats(0, 5), busy=st.booleans())
    def tick(self, seconds: float, busy: bool) -> None:
        self.now_s += seconds
        self.obey(self.estimator.handle(Tick(self.now_s, busy)))

    @precondition(lambda self: self.ping)
    @rule(rtt_s=st.floats(0, 2))
    def pong(self, rtt_s: float) -> None:
        self.ping = False
        self.obey(self.estimator.handle(PongHeard(self.now_s, rtt_s)))

    @precondition(lambda self: self.train is not None)
    @rule(base_s=st.floats(0, 1), train_s=st.floats(0, 3))
    def arrive(self, base_s: float, train_s: float) -> None:
        assert self.train is not None
        train_bytes, deep, self.train = self.train.parts * self.train.part_bytes, self.train.deep, None
        if deep:
            self.obey(self.estimator.handle(DeepTrainAnswered(self.now_s, train_bytes, train_s * 1e6)))
        else:
            self.obey(self.estimator.handle(TrainAnswered(self.now_s, base_s, train_bytes, train_s)))

    @rule(goodput=st.floats(1, 1e10))
    def transferred(self, goodput: float) -> None:
        self.obey(self.estimator.handle(TransferReported(self.now_s, goodput)))

    @rule(train=st.booleans())
    def fail(self, train: bool) -> None:
        if train and self.train is not None:
            probe = Probe.DEEP_TRAIN if self.train.deep else Probe.TRAIN
            self.train = None
            self.obey(self.estimator.handle(ProbeFailed(self.now_s, probe)))
        elif not train and self.ping:
            self.ping = False
            self.obey(self.estimator.handle(ProbeFailed(self.now_s, Probe.PING)))

    @invariant()
    def valid(self) -> None:
        self.estimator.validate()


TestEstimating = Estimating.TestCase
TestEstimating.settings = settings(max_examples=examples(50))
