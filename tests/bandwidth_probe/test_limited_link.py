"""An idle link that is held down for a while, and what its estimate says during that time and after it."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prfaas_bandwidth_probe.estimator import MAX_TRAIN_INTERVAL_S, TRAIN_PARTS
from prfaas_bandwidth_probe.events import SendTrain, Tick, TrainAnswered
from tests.bandwidth_probe.links_at_hand import LINK_SHARE, make_estimator, run, run_after_pauses
from tests.budget import examples

AGAIN_AFTER_FALL_S = 60.0


def seconds_until_known_again(goodput: float, limit: float, rtt_s: float, limited_s: float) -> float:
    """Holds a link at `limit` of its goodput. Returns the simulated seconds from then until half of it is known, or 120."""
    estimator = make_estimator()
    run_after_pauses(estimator, goodput, rtt_s, 0.0, 30.0)
    run_after_pauses(estimator, limit * goodput, rtt_s, 30.0, limited_s)
    assert (estimator.goodput_bytes_per_s or 0.0) < 0.5 * goodput
    for step in range(480):
        if (estimator.goodput_bytes_per_s or 0.0) >= 0.5 * goodput:
            return step / 4
        run_after_pauses(estimator, goodput, rtt_s, 30.0 + limited_s + step / 4, 0.25)
    return 120.0


@pytest.mark.parametrize("limit", [0.001, 0.01])
@pytest.mark.parametrize("limited_s", [40, 250])
def test_an_idle_link_whose_limit_is_lifted_is_known_again_within_seconds(limit: float, limited_s: float) -> None:
    assert seconds_until_known_again(12.5e6, limit, 0.001, limited_s) <= 3 * MAX_TRAIN_INTERVAL_S


@settings(max_examples=examples(20))
@given(st.floats(1e6, 1e8), st.sampled_from([0.001, 0.01, 0.03]), st.floats(0.001, 0.02), st.floats(40, 300))
def test_an_idle_link_is_known_again_within_a_minute_where_a_short_train_shows_no_more_than_its_limit(
    goodput: float, limit: float, rtt_s: float, limited_s: float
) -> None:
    again_s = seconds_until_known_again(goodput, limit, rtt_s, limited_s)
    assert again_s <= AGAIN_AFTER_FALL_S + 3 * MAX_TRAIN_INTERVAL_S


@given(st.floats(1e7, 1e8), st.sampled_from([0.01, 0.03, 0.1]))
def test_a_link_that_has_fallen_carries_one_short_train_of_its_old_length_and_none_that_takes_long_after_it(
    goodput: float, limit: float
) -> None:
    estimator = make_estimator()
    run(estimator, goodput, 0.001, 30)
    told = run(estimator, limit * goodput, 0.001, 120, start_s=30.0)
    short = [order.parts * order.part_bytes for _, order in told if isinstance(order, SendTrain) and not order.deep]
    assert max(short[1:]) <= max(TRAIN_PARTS * 2048, 0.04 * limit * goodput) + 1
    in_window = 5
    assert sum(short[in_window:]) <= LINK_SHARE * limit * goodput * 120 * 1.05
    starts = [at_s for at_s, order in told if isinstance(order, SendTrain) and not order.deep]
    assert all(later - earlier <= MAX_TRAIN_INTERVAL_S + 0.2 for earlier, later in pairwise(starts))


def test_a_train_too_short_to_be_timed_shows_no_more_than_ten_times_what_it_was_made_for() -> None:
    estimator = make_estimator()
    run(estimator, 25e4, 0.02, 60)
    for step in range(20):
        if trains := [order for order in estimator.handle(Tick(60 + step / 2)) if isinstance(order, SendTrain)]:
            break
    size_bytes = trains[0].parts * trains[0].part_bytes
    assert 2 * TRAIN_PARTS * 64 <= size_bytes <= 16_384
    estimator.handle(TrainAnswered(66.0, 0.02, size_bytes, 0.02))
    assert estimator.goodput_bytes_per_s == pytest.approx(1000.0 * size_bytes)
