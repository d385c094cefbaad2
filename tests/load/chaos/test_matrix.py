from itertools import product

import msgspec
import pytest

from load.chaos.__main__ import Matrix
from load.chaos.cell import CellResult
from load.chaos.faults import INJECTIONS, Fault
from load.chaos.matrix import Cell, all_cells, allowed_in, markdown_table
from load.chaos.steps import RECEIVERS, Step, is_step, of_request
from prfaas.contracts.codes import FailureCode
from prfaas.telemetry.fault_points import Announcement, FaultPoint
from tests.source_tree import ROOT

FRAMES = 12


def announced(point: FaultPoint, number: int = 0, request_id: str = "r") -> Announcement:
    return Announcement(point=point, request_id=request_id, number=number, pid=1)


def test_every_fault_meets_every_step_once() -> None:
    assert len(Fault) >= 14 and len(Step) >= 8
    assert sorted(all_cells()) == sorted(Cell(*each) for each in product(Fault, Step))
    assert set(INJECTIONS) == set(Fault) and set(RECEIVERS) == set(Step)


def test_an_allowed_error_is_one_that_exists_and_has_its_reason() -> None:
    client = {"connection", "cut_off"}
    for cell in all_cells():
        allowed = allowed_in(cell)
        assert allowed.codes <= {code.value for code in FailureCode} | client
        assert bool(allowed.codes) == bool(allowed.why)


@pytest.mark.parametrize("point", FaultPoint)
@pytest.mark.parametrize("number", range(FRAMES + 1))
def test_an_announcement_is_at_most_one_step(point: FaultPoint, number: int) -> None:
    assert sum(is_step(step, announced(point, number), FRAMES) for step in Step) <= 1


def test_every_step_has_its_announcement() -> None:
    announcements = [announced(point, number) for point in FaultPoint for number in range(FRAMES)]
    for step in Step:
        assert any(is_step(step, each, FRAMES) for each in announcements), step


def test_the_frame_that_opens_a_transfer_carries_no_kv_and_is_not_its_first_one() -> None:
    assert not is_step(Step.FIRST_FRAME, announced(FaultPoint.FRAME, 0), FRAMES)
    assert is_step(Step.FIRST_FRAME, announced(FaultPoint.FRAME, 1), FRAMES)
    assert is_step(Step.MIDDLE_FRAME, announced(FaultPoint.FRAME, FRAMES // 2), FRAMES)


def test_a_request_that_was_placed_again_is_the_same_one() -> None:
    assert of_request(announced(FaultPoint.PLACED, request_id="abc"), "abc")
    assert of_request(announced(FaultPoint.PLACED, request_id="abc-2"), "abc")
    assert not of_request(announced(FaultPoint.PLACED, request_id="abcd"), "abc")


def test_the_page_has_the_table_of_allowed_errors() -> None:
    assert markdown_table() in (ROOT / "docs/when-things-fail.md").read_text()


def test_parts_of_a_matrix_make_one_and_a_cell_is_run_once() -> None:
    kill, stop, cut = [Cell(fault, Step.PLACED) for fault in (Fault.KILL, Fault.STOP, Fault.CUT)]
    first = part(kill, leaked_bytes=5, leaked={"nuid": kill.name})
    second = part(stop, not_run={cut.name: "no right"}, left={"jobs": 1})
    whole = first.joined(second)
    assert all(map(whole.has, (kill, stop, cut))) and not first.has(stop)
    assert (whole.summary()["cells"], whole.summary()["leaked_bytes"], whole.summary()["left"]) == (2, 5, 1)
    assert msgspec.json.decode(msgspec.json.encode(whole), type=Matrix) == whole


def part(
    cell: Cell,
    leaked_bytes: int = 0,
    leaked: dict[str, str] | None = None,
    not_run: dict[str, str] | None = None,
    left: dict[str, int] | None = None,
) -> Matrix:
    result = CellResult(
        fault=cell.fault.value,
        step=cell.step.value,
        green=True,
        why_red=[],
        injected=True,
        outcomes=["offloaded"] * 3,
        errors=[],
        allowed_errors=0,
        wrong_tokens=0,
        hangs=0,
        worst_s=1.0,
        healthy_after_s=0.5,
        duration_s=3.0,
    )
    return Matrix(
        results=[result],
        not_run=not_run or {},
        leaked_bytes=leaked_bytes,
        leaked=leaked or {},
        left=left or {},
        duration_s=3.0,
    )
