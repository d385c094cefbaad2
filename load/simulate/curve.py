"""`python -m load.simulate.curve [--full] [--json FILE]`: the load curve, all arms side by side; `make bench-policies` is its
short form.

Every arm gets the same arrivals, is told the objective, and runs at each load with each seed. What is refused or failed counts as
not kept. Load 1 is what the paper's threshold could carry without queues. The bound is a clairvoyant linear program.
"""

import argparse
import gc
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table

from load.json_option import add_json_option, write_json
from load.simulate.arms import ABLATIONS, ARMS, OURS
from load.simulate.curve_plot import write_plot
from load.simulate.curve_points import SLO, Measured, Point, Task, measure
from load.simulate.curve_summary import CASES, SHARE, Curves, Summary, summarize
from prfaas.process import interruption
from prfaas.process.child import running_with_parent

GC_THRESHOLD = 100_000
"""Objects made between two searches for cycles: a run keeps nearly all that it makes, and searching it again and again costs a
tenth of the time."""


class Form(NamedTuple):
    duration_s: float
    seeds: int
    cases: tuple[str, ...]
    loads: tuple[float, ...]
    arms: tuple[str, ...]


SHORT = Form(600.0, 1, CASES, (0.7, 0.85, 0.95, 1.05, 1.2, 1.4), tuple(ARMS))
FULL = Form(
    3600.0,
    10,
    (*CASES, "drop20", "mooncake", "azure", "agentic"),
    (0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.3),
    (*ARMS, *ABLATIONS),
)


class Results(msgspec.Struct, frozen=True, kw_only=True):
    duration_s: float
    points: list[Point]
    bounds: dict[str, dict[str, float]]
    """Share that the clairvoyant program keeps, by case and load; seed 1."""
    summary: Summary | None
    """None while the arms that it compares have not been run."""


def run(tasks: Sequence[Task], jobs: int, say: Console) -> Iterator[Measured]:
    """Measures the tasks on several cores. Yields them as they are done."""
    started_at = time.monotonic()
    begin = running_with_parent(gc.set_threshold)
    with multiprocessing.get_context("spawn").Pool(jobs, initializer=begin, initargs=(GC_THRESHOLD,)) as pool:
        for done, measured in enumerate(pool.imap_unordered(measure, tasks), start=1):
            task = measured.task
            ours = next((point.kept_share for point in measured.points if point.arm == OURS), math.nan)
            elapsed_s = time.monotonic() - started_at
            say.print(f"{done}/{len(tasks)} {elapsed_s:5.0f} s: {task.case} {task.load:g} seed {task.seed}, ours {ours:.1%}")
            yield measured


def results_of(measured: Sequence[Measured], duration_s: float) -> Results:
    points = sorted((point for each in measured for point in each.points), key=lambda at: (at.case, at.load, at.seed))
    bounds: dict[str, dict[str, float]] = {}
    for each in sorted(measured, key=lambda at: (at.task.case, at.task.load)):
        if each.bound_share is not None:
            bounds.setdefault(each.task.case, {})[f"{each.task.load:g}"] = each.bound_share
    return Results(duration_s=duration_s, points=points, bounds=bounds, summary=summarize(points, duration_s))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m load.simulate.curve", description=__doc__)
    parser.add_argument("--full", action="store_true", help="ten seeds of an hour each, all cases, with ablations")
    parser.add_argument("--case", action="append", choices=FULL.cases, help="may be given several times")
    parser.add_argument("--arm", action="append", choices=sorted(ARMS | ABLATIONS), help="may be given several times")
    parser.add_argument("--load", action="append", type=float, help="may be given several times")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--seconds", type=float, help="of each run")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw the curves into this page")
    add_json_option(parser)
    asked = parser.parse_args()
    form = FULL if asked.full else SHORT
    duration_s, seeds = asked.seconds or form.duration_s, asked.seeds or form.seeds
    names, loads = tuple(asked.case or form.cases), tuple(asked.load or form.loads)
    arms = tuple(asked.arm or form.arms)
    tasks = [
        Task(name, load, seed, duration_s, arms, bound=seed == 1)
        for seed in range(1, seeds + 1)
        for load in loads
        for name in names
    ]
    say = Console(width=150)
    measured: list[Measured] = []
    for each in run(tasks, asked.jobs, say):
        measured.append(each)
        write_json(results_of(measured, duration_s), asked.json)  # what is done counts even if the rest is not waited for
    found = results_of(measured, duration_s)
    for name in names:
        say.print(table(found, name))
    if found.summary is not None:
        say.print(found.summary)
    if asked.plot is not None:
        write_plot(found.points, found.bounds, asked.plot)


def table(found: Results, case: str) -> Table:
    """Kept shares of one case: a row per arm, a column per load, and the load at which 90 % are kept."""
    curves = Curves(found.points)
    out = Table(title=f"{case}: requests within {SLO.ttft_s:g} s and {SLO.tpot_s * 1000:g} ms per token; {found.duration_s:g} s")
    for column in ("arm", *(f"{load:g}" for load in curves.loads), "90 % at"):
        out.add_column(column, justify="left" if column == "arm" else "right")
    for arm in curves.arms:
        cells = []
        for load in curves.loads:
            kept, half = curves.kept(case, arm, load), curves.interval(case, arm, load)
            cells.append(f"{kept:.1%}" + (f" ±{half:.1%}" if half else "") if kept >= 0 else "-")
        out.add_row(arm, *cells, f"{curves.load_at(case, arm, SHARE):.3f}")
    bounds = found.bounds.get(case, {})
    out.add_row("clairvoyant", *(f"{bounds[f'{load:g}']:.1%}" if f"{load:g}" in bounds else "-" for load in curves.loads), "")
    return out


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
