"""Objectives of time to first token by length."""

from math import inf

import pytest

from prfaas_scheduler.queue.objectives import CLASS_NAMES, LENGTH_CLASSES, Objectives, length_class


@pytest.mark.parametrize(("tokens", "objective_s"), [(1, 10.0), (32_768, 10.0), (65_536, 20.0), (131_072, 40.0), (98_304, 30.0)])
def test_an_objective_grows_with_the_length_beyond_a_point(tokens: int, objective_s: float) -> None:
    assert Objectives().ttft_objective_s(tokens) == objective_s


def test_all_lengths_may_have_one_objective() -> None:
    flat = Objectives(ttft_s=3.0, proportional_from_tokens=inf)
    assert flat.ttft_objective_s(1) == flat.ttft_objective_s(1_000_000) == 3.0


def test_every_length_has_a_class_and_every_class_a_name() -> None:
    assert len(CLASS_NAMES) == len(LENGTH_CLASSES) + 1
    assert [length_class(tokens) for tokens in (1, 8_192, 8_193, 32_768, 65_536, 65_537, 10**9)] == [0, 0, 1, 1, 2, 3, 3]
