"""A worker's observations of its own speed, and the curves read from them."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from prfaas.capacity.observed import ObservedTimes, RecentMean, extrapolated, interpolated


def test_nothing_is_predicted_from_nothing() -> None:
    assert interpolated(ObservedTimes().points(), 100) is None


def test_between_beyond_and_below() -> None:
    points = ((100.0, 1.0), (200.0, 3.0))
    assert interpolated(points, 150) == 2.0
    assert interpolated(points, 400) == 6.0
    assert interpolated(points, 10) == 1.0


@given(st.lists(st.integers(1, 100_000), min_size=1))
def test_a_curve_with_a_constant_is_found_again(lengths: list[int]) -> None:
    def truth(tokens: float) -> float:
        return 0.4 + 1e-3 * tokens

    observed = ObservedTimes()
    for tokens in lengths:
        observed.observe(tokens, truth(tokens))
    points = observed.points()
    assert [tokens for tokens, _ in points] == sorted(tokens for tokens, _ in points)
    for at_tokens, seconds in points:
        assert seconds == pytest.approx(truth(at_tokens))
        assert interpolated(points, round(at_tokens)) == pytest.approx(truth(at_tokens), rel=0.01, abs=1e-3)


def test_a_machine_that_slows_down_is_noticed() -> None:
    observed = ObservedTimes()
    for _ in range(20):
        observed.observe(1000, 1.0)
    for _ in range(20):
        observed.observe(1000, 3.0)
    assert interpolated(observed.points(), 1000) == pytest.approx(3.0, rel=0.01)


def test_a_recent_mean_forgets() -> None:
    mean = RecentMean()
    assert mean.value == 0.0
    for value in (1.0, 2.0, 6.0):
        mean.observe(value)
    assert mean.value == pytest.approx(3.0)
    for _ in range(1000):
        mean.observe(10.0)
    assert mean.value == pytest.approx(10.0, rel=0.01)


def test_a_step_of_a_larger_batch_than_was_seen_goes_on_along_the_line() -> None:
    points = ((1.0, 0.040), (8.0, 0.047))
    assert extrapolated(points, 4) == interpolated(points, 4)
    assert extrapolated(points, 32) == pytest.approx(0.071)
    assert extrapolated(points[:1], 32) == 0.040, "one point says nothing of a slope"
    assert extrapolated(((1.0, 0.05), (8.0, 0.04)), 32) == 0.04, "noise is no promise"
    assert extrapolated(((7.0, 0.001), (8.0, 0.04)), 32) == pytest.approx(0.16)
    assert extrapolated((), 32) is None
