"""A slice of the fault matrix: ten cells of it, one of each kind of fault that takes little time."""

from pathlib import Path

import pytest

from load.chaos.__main__ import run_cells
from load.chaos.faults import Fault
from load.chaos.matrix import Cell
from load.chaos.steps import Step

SLICE = (
    Cell(Fault.POISON, Step.ACCEPTED),
    Cell(Fault.POISON, Step.MIDDLE_FRAME),
    Cell(Fault.DUPLICATE, Step.JOB_STORED),
    Cell(Fault.DUPLICATE, Step.FIRST_FRAME),
    Cell(Fault.DAMAGED, Step.MANIFEST),
    Cell(Fault.CLOCK, Step.JOB_TAKEN),
    Cell(Fault.CUT, Step.MIDDLE_FRAME),
    Cell(Fault.KILL, Step.MIDDLE_FRAME),
    Cell(Fault.KILL, Step.DECODING),
    Cell(Fault.BROKER_RESTART, Step.JOB_STORED),
)


@pytest.mark.timeout(900)
async def test_faults_at_named_steps_cost_no_token_and_leave_nothing_behind(tmp_path: Path) -> None:
    matrix = await run_cells(SLICE, tmp_path, seed=1)
    red = {f"{one.fault} at {one.step}": one.why_red for one in matrix.results if not one.green}
    assert red == {}
    assert all(one.injected for one in matrix.results) and len(matrix.results) == len(SLICE)
    summary = matrix.summary()
    assert (summary["wrong_tokens"], summary["hangs"], summary["leaked_bytes"]) == (0, 0, 0), matrix.leaked
    assert matrix.left == {}
