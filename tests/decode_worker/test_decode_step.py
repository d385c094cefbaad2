"""A step in which some rows cannot be computed: the others go on, each advanced exactly once."""

from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from prfaas.contracts.to_decode import Sampling
from prfaas.engine.emulated import EmulatedConfig, EmulatedEngine
from prfaas.engine.protocol import BadLogitsError, DecodeRow, EngineError, SampledToken
from prfaas_decode_worker.decode_step import decode_step


class Counter:
    """A sequence that counts its tokens."""

    def __init__(self) -> None:
        self.tokens = 0


class FragileEngine:
    """Raises as the protocol demands: nothing has moved then. Token 13 breaks a step, 14 gives no numbers."""

    def __init__(self, most_rows: int = 100) -> None:
        self.most_rows = most_rows
        self.steps = 0

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a step needs no {name}")

    def decode(self, rows: Sequence[DecodeRow]) -> list[SampledToken]:
        self.steps += 1
        if len(rows) > self.most_rows:
            raise MemoryError
        if any(row.token_id == 13 for row in rows):
            raise RuntimeError("the kernel does not like 13")
        if bad := [index for index, row in enumerate(rows) if row.token_id == 14]:
            raise BadLogitsError(bad)
        for row in rows:
            row.sequence.tokens += 1
        return [SampledToken(token_id=row.token_id + 1) for row in rows]


def rows_of(token_ids: list[int]) -> list[DecodeRow]:
    return [DecodeRow(sequence=Counter(), token_id=token_id, sampler=None) for token_id in token_ids]


@given(st.lists(st.sampled_from([1, 2, 3, 13, 14]), max_size=20), st.integers(1, 25))
def test_rows_that_break_a_step_fail_alone_and_the_rest_is_advanced_once(token_ids: list[int], most_rows: int) -> None:
    rows = rows_of(token_ids)
    outcomes = decode_step(FragileEngine(most_rows), rows)
    for row, outcome in zip(rows, outcomes, strict=True):
        if row.token_id in (13, 14):
            assert isinstance(outcome, RuntimeError if row.token_id == 13 else BadLogitsError)
            assert row.sequence.tokens == 0
        else:
            assert outcome == SampledToken(token_id=row.token_id + 1) and row.sequence.tokens == 1


def test_one_bad_row_among_many_costs_few_steps() -> None:
    engine = FragileEngine()
    decode_step(engine, rows_of([1] * 31 + [13]))
    assert engine.steps <= 2 * 5 + 1


@pytest.mark.parametrize("bad_rows", [(), (7,)])
def test_an_engine_that_names_no_row_of_the_step_ends_it(bad_rows: tuple[int, ...]) -> None:
    class Confused(FragileEngine):
        def decode(self, rows: Sequence[DecodeRow]) -> list[SampledToken]:
            raise BadLogitsError(bad_rows)

    assert all(isinstance(outcome, BadLogitsError) for outcome in decode_step(Confused(), rows_of([1, 2])))


def test_too_few_tokens_end_the_step() -> None:
    class Short(FragileEngine):
        def decode(self, rows: Sequence[DecodeRow]) -> list[SampledToken]:
            return super().decode(rows)[1:]

    for outcome in decode_step(Short(), rows_of([1, 2])):
        assert isinstance(outcome, EngineError) and str(outcome) == "the engine gave 1 tokens for 2 rows"


def test_the_emulated_engine_goes_on_with_the_same_answer_beside_rows_that_raise() -> None:
    engine = EmulatedEngine("emulated-1t", EmulatedConfig(time_scale=1e6, byte_scale=6000.0, token_scale=32.0), chunk_tokens=64)
    prompt = [1, 2, 3]

    def row() -> DecodeRow:
        sequence = engine.reserve(len(prompt), 20)
        engine.prefill(prompt, lambda piece: engine.install(sequence, piece), lambda: False)
        return DecodeRow(sequence=sequence, token_id=4, sampler=engine.sampler(Sampling(max_tokens=9)))

    alone, beside, broken = row(), row(), row()
    broken.sampler = None
    for _ in range(5):
        (expected,) = engine.decode([alone])
        outcomes = decode_step(engine, [beside, broken])
        assert outcomes[0] == expected and isinstance(outcomes[1], AttributeError)
        alone.token_id = beside.token_id = expected.token_id
    assert broken.sequence.tokens == len(prompt)
