"""Acknowledgements tell some things of a link, and not others."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from prfaas.link.estimate import MEMORY_S, DeliveryEstimate

FRAME = 100_000
RATE = 1e7


def test_nothing_is_known_before_the_first_acknowledgement() -> None:
    estimate = DeliveryEstimate(0.0)
    assert estimate.rtt_s is estimate.rate_bytes_per_s is estimate.goodput_bytes_per_s is None
    assert estimate.bottleneck_bytes_per_s is None


@given(st.lists(st.tuples(st.floats(0.001, 1), st.floats(0.001, 0.5)), min_size=1, max_size=60))
def test_the_round_trip_is_the_smallest_of_the_last_seconds(steps: list[tuple[float, float]]) -> None:
    estimate, now_s = DeliveryEstimate(0.0), 0.0
    seen: list[tuple[float, float]] = []
    for pause_s, rtt_s in steps:
        now_s += pause_s
        sent = estimate.sent(FRAME, now_s, alone=True)
        now_s += rtt_s
        estimate.delivered(sent, now_s)
        estimate.validate()
        seen.append((now_s, now_s - sent.at))
        assert estimate.rtt_s == min(rtt for at, rtt in seen if at >= now_s - MEMORY_S)


def test_acknowledgements_in_bunches_do_not_inflate_goodput() -> None:
    estimate, on_the_way = DeliveryEstimate(0.0), []
    for number in range(800):
        at = number * FRAME / RATE
        on_the_way.append(estimate.sent(FRAME, at, alone=number == 0))
        if number % 8 == 7:
            for sent in on_the_way:
                estimate.delivered(sent, at + 0.02)
            on_the_way = []
    assert estimate.goodput_bytes_per_s == pytest.approx(RATE, rel=0.1)
    assert estimate.bottleneck_bytes_per_s == estimate.goodput_bytes_per_s


def trickle(estimate: DeliveryEstimate, since: float, count: int) -> float:
    """One frame at a time, and nothing to send in between. Returns the time after."""
    now_s = since
    for _ in range(count):
        sent = estimate.sent(FRAME, now_s, alone=True)
        estimate.ran_dry(now_s)
        estimate.delivered(sent, now_s + 0.01)
        now_s += 0.1
    return now_s


def test_a_sender_that_runs_dry_says_nothing_about_the_link() -> None:
    estimate = DeliveryEstimate(0.0)
    trickle(estimate, 0.0, 100)
    assert estimate.bottleneck_bytes_per_s is None


def test_a_slow_sender_does_not_lower_what_is_known_until_it_is_forgotten() -> None:
    estimate = DeliveryEstimate(0.0)
    frames = [estimate.sent(FRAME, number * 0.001, alone=number == 0) for number in range(20)]
    for number, sent in enumerate(frames):
        estimate.delivered(sent, 0.02 + number * 0.001)
    fast = estimate.rate_bytes_per_s
    assert fast is not None
    now_s = trickle(estimate, 0.1, 50)
    assert estimate.rate_bytes_per_s == fast
    trickle(estimate, now_s + MEMORY_S, 5)
    assert estimate.rate_bytes_per_s is not None and estimate.rate_bytes_per_s < fast


def test_all_that_was_delivered_is_counted() -> None:
    estimate = DeliveryEstimate(0.0)
    trickle(estimate, 0.0, 7)
    assert estimate.delivered_bytes == 7 * FRAME
