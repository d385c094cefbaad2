"""What a worker observed of its own speed, and what is read from it."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from prfaas.capacity.observed import ObservedPrefill, interpolated


def test_nothing_is_predicted_from_nothing() -> None:
    assert interpolated(ObservedPrefill().points(), 100) is None


def test_between_beyond_and_below() -> None:
    points = ((100.0, 1.0), (200.0, 3.0))
    assert interpolated(points, 150) == 2.0
    assert interpolated(points, 400) == 6.0
    assert interpolated(points, 10) == 1.0


@given(st.lists(st.integers(1, 100_000), min_size=1))
def test_a_curve_with_a_constant_is_found_again(lengths: list[int]) -> None:
    def truth(tokens: float) -> float:
        return 0.4 + 1e-3 * tokens

    observed = ObservedPrefill()
    for tokens in lengths:
        observed.observe(tokens, truth(tokens))
    points = observed.points()
    assert [tokens for tokens, _ in points] == sorted(tokens for tokens, _ in points)
    for at_tokens, seconds in points:
        assert seconds == pytest.approx(truth(at_tokens))
        assert interpolated(points, round(at_tokens)) == pytest.approx(truth(at_tokens), rel=0.01, abs=1e-3)


def test_a_machine_that_slows_down_is_noticed() -> None:
    observed = ObservedPrefill()
    for _ in range(20):
        observed.observe(1000, 1.0)
    for _ in range(20):
        observed.observe(1000, 3.0)
    assert interpolated(observed.points(), 1000) == pytest.approx(3.0, rel=0.01)
