import random

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from prfaas.replay.shaping import Shape, ShapeError, shaped, sorted_within, without_long_prompts
from prfaas.replay.synthetic import Synthetic
from prfaas.traces import TraceRequest
from tests.budget import examples

ROWS = [TraceRequest(float(at), 512 * (at + 1), 64, range(at + 1), 512) for at in range(10)]


def test_dividing_keeps_the_blocks() -> None:
    found = list(shaped(ROWS, Shape(divide_lengths=64)))
    assert [list(row.block_ids) for row in found] == [list(row.block_ids) for row in ROWS]
    assert [(row.input_tokens, row.block_tokens, row.output_tokens) for row in found] == [(8 * (n + 1), 8, 1) for n in range(10)]


@pytest.mark.parametrize("shape", [Shape(divide_lengths=7), Shape(divide_lengths=0), Shape(speed=0.0)])
def test_a_shape_that_cannot_be_had_is_said(shape: Shape) -> None:
    with pytest.raises(ShapeError):
        list(shaped(ROWS, shape))


def test_text_cannot_be_divided() -> None:
    with pytest.raises(ShapeError, match="as text"):
        list(shaped([TraceRequest(0.0, 10, 1, text="hello")], Shape(divide_lengths=2)))


def test_speed_and_duration_are_of_the_run() -> None:
    found = list(shaped(ROWS, Shape(speed=2.0, duration_s=2.0)))
    assert [row.arrival_s for row in found] == [0.0, 0.5, 1.0, 1.5]


def test_the_limit_is_on_prompts_as_they_are_sent() -> None:
    assert len(list(shaped(ROWS, Shape(divide_lengths=2, max_input_tokens=512)))) == 2


def test_a_session_ends_before_a_turn_that_is_too_long() -> None:
    turns = [(10, "a"), (90, "a"), (20, "a"), (20, "b"), (90, ""), (10, "")]
    rows = [TraceRequest(float(at), tokens, 1, session=session) for at, (tokens, session) in enumerate(turns)]
    assert [row.arrival_s for row in without_long_prompts(rows, 50)] == [0.0, 3.0, 5.0]


@given(st.lists(st.floats(0, 100)), st.floats(0, 10), st.integers(0, 5))
def test_sorting_within_a_bound_sorts(stamps: list[float], late_s: float, seed: int) -> None:

    source = random.Random(seed)
    rows = [TraceRequest(stamp + source.uniform(0, late_s), 1, 1) for stamp in sorted(stamps)]
    found = list(sorted_within(rows, late_s))
    assert found == sorted(rows, key=lambda row: row.arrival_s)


@settings(max_examples=examples(10))
@given(st.integers(0, 100), st.sampled_from([0.0, 0.5, 1.0, 3.0]))
def test_synthetic_traffic_repeats_and_keeps_its_mean_rate(seed: int, cv: float) -> None:
    made = Synthetic(
        lengths="lognormal:median=1000,sigma=1,low=10,high=5000",
        output_tokens=9,
        rate_req_s=50.0,
        duration_s=40.0,
        arrivals_cv=cv,
        seed=seed,
    )
    rows = list(made.requests())
    assert rows == list(made.requests())
    # The number of arrivals has a standard deviation of cv * sqrt(2,000): six of them are never seen.
    assert abs(len(rows) - 2_000) <= 270 * cv + 1
    assert all(10 <= row.input_tokens <= 5000 and row.output_tokens == 9 for row in rows)
    assert [row.arrival_s for row in rows] == sorted(row.arrival_s for row in rows) and rows[-1].arrival_s < 40.0


def test_a_shared_prefix_is_one_block() -> None:
    made = Synthetic(lengths="fixed:tokens=10", output_tokens=1, rate_req_s=1.0, duration_s=5.0, shared_prefix_tokens=100)
    assert {(row.input_tokens, row.block_ids, row.block_tokens) for row in made.requests()} == {(110, (0,), 100)}


def test_more_requests_than_anyone_sends_are_refused_before_they_are_made() -> None:
    made = Synthetic(lengths="fixed:tokens=9", output_tokens=1, rate_req_s=1e9, duration_s=1e6)
    with pytest.raises(ShapeError, match="are more than 10,000,000"):
        next(made.requests())


@pytest.mark.parametrize("cv", [0.0, 1e-300, 1e-9])
def test_hardly_any_variation_is_a_clock(cv: float) -> None:
    made = Synthetic(lengths="fixed:tokens=9", output_tokens=1, rate_req_s=2.0, duration_s=2.0, arrivals_cv=cv)
    assert [row.arrival_s for row in made.requests()] == [0.5, 1.0, 1.5]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("gauss:1", "there are lognormal, fixed"),
        ("lognormal:sigma=1", "needs median"),
        ("lognormal:median=x,sigma=1", "expected a number"),
        ("lognormal:median=10,sigma=1,low=9,high=3", "low < high"),
        ("lognormal:median=10,sigma=0", "sigma is 0"),
        ("lognormal:median=1e8,sigma=0.001,low=2,high=10", "leave nothing"),
        ("fixed:tokens=0", "tokens is 0"),
        ("fixed:tokens=nan", "tokens is nan"),
        ("fixed:length=3", "no 'length'"),
    ],
)
def test_lengths_that_are_not_understood_are_said(spec: str, says: str) -> None:
    with pytest.raises(ShapeError, match=says):
        next(Synthetic(lengths=spec, output_tokens=1, rate_req_s=1.0, duration_s=9.0).requests())
