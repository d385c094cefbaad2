import hypothesis.strategies as st
import pytest
from hypothesis import given

from load.arrivals import of_trace, poisson, scaled_tokens
from prfaas.capacity.lengths import TruncatedLogNormal
from prfaas.replay.arrival import Arrival
from prfaas.traces import TraceRequest

LENGTHS = TruncatedLogNormal(mu=9.90, sigma=1.00, low_tokens=128, high_tokens=131_072)


@given(st.integers(0, 1000), st.floats(0.5, 20))
def test_arrivals_are_in_order_and_bring_the_promised_work(seed: int, rate_req_s: float) -> None:
    arrivals = poisson(LENGTHS, rate_req_s=rate_req_s, duration_s=400.0, output_tokens=7, seed=seed)
    assert len(arrivals) == round(rate_req_s * 400)
    assert [arrival.arrival_s for arrival in arrivals] == sorted(arrival.arrival_s for arrival in arrivals)
    assert all(0 <= arrival.arrival_s <= 400 and 128 <= arrival.prompt_tokens <= 131_072 for arrival in arrivals)
    mean = sum(arrival.prompt_tokens for arrival in arrivals) / len(arrivals)
    assert mean == pytest.approx(LENGTHS.mean_tokens, rel=0.03)


def test_the_order_of_lengths_is_random_and_repeatable() -> None:
    one, again, other = (poisson(LENGTHS, rate_req_s=1.0, duration_s=50.0, output_tokens=7, seed=seed) for seed in (1, 1, 2))
    assert one == again != other
    assert [arrival.prompt_tokens for arrival in one] != sorted(arrival.prompt_tokens for arrival in one)


def test_scaling_keeps_the_shape() -> None:
    assert scaled_tokens([Arrival(10.0, 3200, 1024), Arrival(20.0, 1, 1)], 32, 5) == [Arrival(2.0, 100, 32), Arrival(4.0, 2, 1)]


def test_a_trace_without_what_the_model_cannot_hold() -> None:
    rows = [TraceRequest(0.0, 10, 5), TraceRequest(1.0, 99, 5), TraceRequest(2.0, 1, 0)]
    assert list(of_trace(rows, max_prompt_tokens=50)) == [Arrival(0.0, 10, 5), Arrival(2.0, 2, 1)]
