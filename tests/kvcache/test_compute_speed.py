"""The time of tokens by their place: learnt from chunks, never below nothing."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from prfaas.kvcache.compute_speed import ComputeSpeed


def test_a_line_over_the_position_is_found() -> None:
    speed = ComputeSpeed()
    assert speed.seconds(100, 140) == 40.0
    for start in range(0, 8192, 512):
        speed.observe(start, start + 512, 512 * (1e-3 + 1e-7 * (start + 256)))
    for start, end in ((0, 512), (20_000, 20_512)):
        assert speed.seconds(start, end) == pytest.approx((end - start) * (1e-3 + 1e-7 * (start + end) / 2), rel=1e-6)


def test_a_worker_that_became_slower_is_believed() -> None:
    speed = ComputeSpeed()
    for seconds in (1.0, 3.0):
        for start in [*range(0, 8192, 512)] * 20:
            speed.observe(start, start + 512, seconds)
    assert speed.seconds(0, 512) == pytest.approx(3.0, rel=0.02)


@given(st.lists(st.tuples(st.integers(0, 200), st.floats(0, 100)), min_size=1), st.integers(0, 10_000))
def test_no_observations_make_it_negative_or_fall_with_the_position(chunks: list[tuple[int, float]], at: int) -> None:
    speed = ComputeSpeed()
    for chunk, seconds in chunks:
        speed.observe(chunk * 512, chunk * 512 + 512, seconds)
    assert -1e-6 <= speed.seconds(at * 512, at * 512 + 512) <= speed.seconds(at * 512 + 512, at * 512 + 1024) + 1e-6
