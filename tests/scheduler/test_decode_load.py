"""The batch that a decode worker keeps its objective with, and the wait for a place in it."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prfaas.contracts.terms import Role
from prfaas.contracts.to_scheduler import Heartbeat
from prfaas_scheduler.decode_load import batch_limit, place_wait_s

STEPS = ((1.0, 0.020), (20.0, 0.025), (40.0, 0.050))


def decoder(slots: int, step_points: tuple[tuple[float, float], ...] = STEPS, output_tokens: float = 100.0) -> Heartbeat:
    return Heartbeat(
        site="home",
        worker="d0",
        role=Role.DECODE,
        model="m",
        fingerprint="f",
        max_context_tokens=9000,
        slots=slots,
        step_points=step_points,
        output_tokens=output_tokens,
    )


@pytest.mark.parametrize(
    ("slots", "objective_s", "limit"),
    [
        (64, 0.025, 20),
        (64, 0.0275, 22),
        (16, 0.025, 16),
        (64, 0.010, 1),
        (64, inf, 64),
        (64, 0.0, 64),
    ],
)
def test_the_limit_is_the_largest_batch_that_keeps_the_objective(slots: int, objective_s: float, limit: int) -> None:
    assert batch_limit(decoder(slots), objective_s) == limit


def test_without_an_observation_all_slots_count() -> None:
    assert batch_limit(decoder(64, step_points=()), 0.001) == 64
    assert batch_limit(decoder(0, step_points=()), 0.0) == 1, "a worker that is said to have no slot divides nothing by 0"


@given(st.integers(1, 80), st.floats(0.001, 0.2))
def test_a_laxer_objective_allows_no_smaller_batch(slots: int, objective_s: float) -> None:
    assert 1 <= batch_limit(decoder(slots), objective_s) <= batch_limit(decoder(slots), 2 * objective_s) <= slots


def test_a_place_is_waited_for_as_long_as_the_answers_ahead_take() -> None:
    assert place_wait_s(decoder(64), load=19, limit=20) == 0.0
    # Twenty answers of 100 steps end in 2.5 s: one every 0.125 s.
    assert place_wait_s(decoder(64), load=20, limit=20) == pytest.approx(0.125)
    assert place_wait_s(decoder(64), load=39, limit=20) == pytest.approx(2.5)
    assert place_wait_s(decoder(64, output_tokens=0.0), load=39, limit=20) == 0.0, "the length of answers is not known"
    assert place_wait_s(decoder(64, step_points=()), load=39, limit=20) == 0.0
