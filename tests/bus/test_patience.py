import hypothesis.strategies as st
import pytest
from hypothesis import given

from prfaas.bus.patience import MOST_S, Patience

LEAST_S = 2.5
TIMES = st.lists(st.floats(0.0, 30.0, allow_subnormal=False), max_size=50)


def test_a_process_that_answers_at_once_has_the_least() -> None:
    patience = Patience(LEAST_S)
    for _ in range(100):
        patience.handle_answer(0.0)
    assert patience.silent_s == LEAST_S


def test_one_late_answer_is_remembered_for_a_while() -> None:
    patience = Patience(LEAST_S)
    for _ in range(20):
        patience.handle_answer(0.005)
    patience.handle_answer(2.0)
    assert patience.silent_s > LEAST_S + 2.0
    for _ in range(60):
        patience.handle_answer(0.005)
    assert patience.silent_s == pytest.approx(LEAST_S, abs=0.05)


@given(TIMES)
def test_it_has_bounds(times: list[float]) -> None:
    patience = Patience(LEAST_S)
    for took_s in times:
        patience.handle_answer(took_s)
        patience.validate()


@given(st.floats(0.0, 5.0), st.integers(20, 60))
def test_a_process_that_is_always_as_slow_is_waited_for_that_time_more(took_s: float, answers: int) -> None:
    patience = Patience(LEAST_S)
    for _ in range(answers):
        patience.handle_answer(took_s)
    assert patience.silent_s >= min(LEAST_S + 0.9 * took_s, MOST_S)
