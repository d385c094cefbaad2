"""The cells of the matrix, and which errors a client may see in which.

Where nothing is listed, every request must be answered with the right tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple

from load.chaos.faults import Fault
from load.chaos.steps import Step
from prfaas.contracts.codes import FailureCode


class Cell(NamedTuple):
    fault: Fault
    step: Step

    @property
    def name(self) -> str:
        return f"{self.fault} at {self.step}"


class Allowed(NamedTuple):
    """Errors that a client may see in a cell, and why no other end can be asked for."""

    codes: frozenset[str]
    why: str


def allowed_in(cell: Cell) -> Allowed:
    for faults, steps, codes, why in ALLOWED:
        if cell.fault in faults and (not steps or cell.step in steps):
            return Allowed(frozenset(codes), why)
    return Allowed(frozenset(), "")


ALLOWED: Sequence[tuple[Sequence[Fault], Sequence[Step], Sequence[str], str]] = (
    (
        (Fault.KILL,),
        (Step.PLACED,),
        ("connection", "cut_off"),
        "the gateway that holds the client's connection dies; another connection is another request",
    ),
    (
        (Fault.POISON,),
        (),
        (
            FailureCode.INTERNAL_ERROR,
            FailureCode.INTERNAL,
            FailureCode.ENGINE,
            FailureCode.TEXT,
            FailureCode.ABORTED,
            FailureCode.BROKER,
        ),
        "the request breaks whatever computes it, each time; it ends with the code of what broke",
    ),
)
"""Faults, steps (none: all), codes, and why."""


def markdown_table() -> str:
    """The table of docs/when-things-fail.md."""
    rows = ["| fault | step | codes | why |", "|---|---|---|---|"]
    for faults, steps, codes, why in ALLOWED:
        spelled = ", ".join(f"`{code}`" for code in codes)
        rows.append(f"| {', '.join(faults)} | {', '.join(steps) or 'every'} | {spelled} | {why} |")
    return "\n".join(rows)


def all_cells() -> list[Cell]:
    """Fault by fault, in an order in which what one leaves behind does not hide what another one leaks."""
    return [Cell(fault, step) for fault in Fault for step in Step]
