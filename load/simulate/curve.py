"""`python -m load.simulate.curve [--full] [--json FILE]`: the load curve, all arms side by side; `make bench-policies` is its
short form.

Every arm gets the same arrivals, is told the objective, and runs at each load with each seed. What is refused or failed counts as
not kept. Load 1 is what the paper's threshold could carry without queues. The bound is a clairvoyant linear program.
"""

import argparse
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table

from load.json_option import add_json_option, write_json
from load.report import Slo, percentile
from load.simulate.arms import ABLATIONS, ARMS, BY_LENGTH, OTHERS, OURS, PAPER, TTFT_OBJECTIVE_S, simulated
from load.simulate.bound import bound_share
from load.simulate.cases import cases
from load.simulate.curve_plot import write_plot
from prfaas.replay.record import Record
from prfaas_scheduler.queue.objectives import CLASS_NAMES, length_class

SLO = Slo(ttft_s=TTFT_OBJECTIVE_S, tpot_s=1.1 / 40)
WARM_UP = 0.1
CASES = ("steady", "drop100", "bursts", "reuse")
"""Cases of the summary."""
YARDSTICKS_S = (5.0, 10.0, 20.0, 30.0)
REFUSED_WITHIN_S = 1.0
QUIET_LOAD = 0.95
"""Highest load at which long prompts must wait no longer than under the paper's threshold."""
SHARE = 0.9
LONG = CLASS_NAMES[-1]
T_95 = (0.0, 0.0, 12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t for a 95 % interval, by the number of seeds; the last one for more."""
BOUND_S = 600.0
"""Part of a run that the clairvoyant program is solved for."""
UNBOUNDED = ("reuse", "agentic")
"""Cases with caches, which the program leaves out."""


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


class ClassOutcome(msgspec.Struct, frozen=True, kw_only=True):
    requests: int
    kept_share: float
    ttft_p99_s: float
    """0 where none was answered."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One arm in one case at one load with one seed."""

    case: str
    load: float
    arm: str
    seed: int
    requests: int
    kept_share: float
    """Share of all requests that kept the objective of TTFT and that of TPOT."""
    kept_by_length_share: float
    """The same for the objective that grows with the length."""
    within_share: dict[str, float]
    """Share of all requests whose TTFT is within the key's seconds."""
    ttft_p50_s: float
    ttft_p90_s: float
    ttft_p99_s: float
    ttft_max_s: float
    tpot_p99_s: float
    refused_share: float
    """Share that was refused within a second of its arrival."""
    failed_share: float
    """Share that was accepted and failed: refused later, or past its deadline."""
    classes: dict[str, ClassOutcome]
    took_s: float


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    load_at_90: dict[str, dict[str, float]]
    """Load at which 90 % keep the objective, by case and arm; interpolated between the loads that were run."""
    load_at_90_over_paper: float
    load_at_90_over_best_other: float
    """The lowest of the cases each."""
    kept_at_105: float = msgspec.field(name="kept_at_1.05")
    kept_at_12: float = msgspec.field(name="kept_at_1.2")
    """The lowest of the cases each; -1 where the load was not run."""
    admitted_late_share: float
    """The highest share, at any load, that was accepted and failed."""
    long_p99_over_threshold: float
    """The highest ratio of P99 of prompts above 64K to the paper's threshold, at loads up to 0.95."""


class Results(msgspec.Struct, frozen=True, kw_only=True):
    duration_s: float
    points: list[Point]
    bounds: dict[str, dict[str, float]]
    """Share that the clairvoyant program keeps, by case and load; seed 1."""
    summary: Summary


class Task(msgspec.Struct, frozen=True):
    """All arms on the same arrivals."""

    case: str
    load: float
    seed: int
    duration_s: float
    arms: tuple[str, ...]
    bound: bool
    """True: the clairvoyant program is solved too."""


class Measured(msgspec.Struct, frozen=True):
    task: Task
    points: list[Point]
    bound_share: float | None


def measure(task: Task) -> Measured:
    case = cases(task.load, duration_s=task.duration_s, seed=task.seed)[task.case]()
    points = []
    for name in task.arms:
        started_s = time.process_time()
        result = simulated(case, (ARMS | ABLATIONS)[name])
        (records,), (failed_after_s,) = result.records.values(), result.failed_after_s.values()
        points.append(_point(task, name, records, failed_after_s, time.process_time() - started_s))
    start_s = WARM_UP * task.duration_s
    end_s = min(task.duration_s, start_s + BOUND_S)
    bound = bound_share(case, TTFT_OBJECTIVE_S, start_s, end_s) if task.bound and task.case not in UNBOUNDED else None
    return Measured(task, points, bound)


def _point(task: Task, arm: str, records: Sequence[Record], failed_after_s: Mapping[int, float], took_s: float) -> Point:
    due = [index for index, record in enumerate(records) if record.arrival.arrival_s >= WARM_UP * task.duration_s]
    whole = [records[index] for index in due if not records[index].error]
    ttfts_s = [record.ttft_s for record in whole if record.ttft_s is not None] or [0.0]
    tpots_s = [record.tpot_s for record in whole if record.tpot_s is not None] or [0.0]
    refused = sum(failed_after_s.get(index, math.inf) <= REFUSED_WITHIN_S for index in due)
    return Point(
        case=task.case,
        load=task.load,
        arm=arm,
        seed=task.seed,
        requests=len(due),
        kept_share=sum(SLO.kept(records[index]) for index in due) / len(due),
        kept_by_length_share=sum(_kept_by_length(records[index]) for index in due) / len(due),
        within_share={f"{limit_s:g}": sum(ttft_s <= limit_s for ttft_s in ttfts_s) / len(due) for limit_s in YARDSTICKS_S},
        ttft_p50_s=percentile(ttfts_s, 0.5),
        ttft_p90_s=percentile(ttfts_s, 0.9),
        ttft_p99_s=percentile(ttfts_s, 0.99),
        ttft_max_s=max(ttfts_s),
        tpot_p99_s=percentile(tpots_s, 0.99),
        refused_share=refused / len(due),
        failed_share=(len(due) - len(whole) - refused) / len(due),
        classes=_classes([records[index] for index in due]),
        took_s=took_s,
    )


def _kept_by_length(record: Record) -> bool:
    limit_s = BY_LENGTH.ttft_objective_s(record.arrival.prompt_tokens)
    return not record.error and record.ttft_s is not None and record.ttft_s <= limit_s and (record.tpot_s or 0.0) <= SLO.tpot_s


def _classes(records: Sequence[Record]) -> dict[str, ClassOutcome]:
    found = {}
    for index, name in enumerate(CLASS_NAMES):
        of_class = [record for record in records if length_class(record.arrival.prompt_tokens - 1) == index]
        ttfts_s = [record.ttft_s for record in of_class if not record.error and record.ttft_s is not None]
        if of_class:
            found[name] = ClassOutcome(
                requests=len(of_class),
                kept_share=sum(map(SLO.kept, of_class)) / len(of_class),
                ttft_p99_s=percentile(ttfts_s, 0.99) if ttfts_s else 0.0,
            )
    return found


def summarize(points: Sequence[Point]) -> Summary:
    """Raises ValueError without any point of ours and of the paper's threshold."""
    curves = Curves(points)
    at_90 = {case: {arm: curves.load_at(case, arm, SHARE) for arm in curves.arms} for case in curves.cases}
    if OURS not in curves.arms or PAPER not in curves.arms:
        raise ValueError(f"a summary needs the arms {OURS!r} and {PAPER!r}, but it got {sorted(curves.arms)}.")
    others = [arm for arm in curves.arms if arm in OTHERS]
    summary_cases = [case for case in curves.cases if case in CASES]
    return Summary(
        load_at_90=at_90,
        load_at_90_over_paper=min(at_90[case][OURS] / at_90[case][PAPER] for case in summary_cases),
        load_at_90_over_best_other=min(at_90[case][OURS] / max(at_90[case][arm] for arm in others) for case in summary_cases),
        kept_at_105=min((curves.kept(case, OURS, 1.05) for case in summary_cases), default=-1.0),
        kept_at_12=min((curves.kept(case, OURS, 1.2) for case in summary_cases), default=-1.0),
        admitted_late_share=max(point.failed_share for point in points if point.arm == OURS),
        long_p99_over_threshold=max(curves.long_p99_ratios(), default=0.0),
    )


class Curves:
    """Means over the seeds, by case, arm and load."""

    def __init__(self, points: Sequence[Point]) -> None:
        self._points: dict[tuple[str, str, float], list[Point]] = {}
        for point in points:
            self._points.setdefault((point.case, point.arm, point.load), []).append(point)
        self.cases = list(dict.fromkeys(point.case for point in points))
        self.arms = list(dict.fromkeys(point.arm for point in points))
        self.loads = sorted({point.load for point in points})

    def of(self, case: str, arm: str, load: float) -> list[Point]:
        return self._points.get((case, arm, load), [])

    def kept(self, case: str, arm: str, load: float) -> float:
        """Mean share that was kept; -1 where nothing was run."""
        found = [point.kept_share for point in self.of(case, arm, load)]
        return statistics.fmean(found) if found else -1.0

    def interval(self, case: str, arm: str, load: float) -> float:
        """Half of the 95 % interval of that mean over the seeds; 0 with a single seed."""
        found = [point.kept_share for point in self.of(case, arm, load)]
        return T_95[min(len(found), len(T_95) - 1)] * statistics.stdev(found) / len(found) ** 0.5 if len(found) > 1 else 0.0

    def load_at(self, case: str, arm: str, share: float) -> float:
        """Load at which the kept share falls below `share`, on the line between two loads that were run; the last load where it
        never does, the first where it never reaches it."""
        known = [(load, self.kept(case, arm, load)) for load in self.loads if self.of(case, arm, load)]
        for (low, high_share), (high, low_share) in pairwise(known):
            if high_share >= share > low_share:
                return low + (high - low) * (high_share - share) / (high_share - low_share)
        return known[-1][0] if known[-1][1] >= share else known[0][0]

    def long_p99_ratios(self) -> list[float]:
        """P99 of TTFT above 64K under ours, to the paper's threshold, for each case and quiet load; the longest of the seeds
        each."""
        found = []
        for case in self.cases:
            for load in self.loads:
                ours, paper = (
                    max(
                        (point.classes[LONG].ttft_p99_s for point in self.of(case, arm, load) if LONG in point.classes),
                        default=0.0,
                    )
                    for arm in (OURS, PAPER)
                )
                if load <= QUIET_LOAD and case in CASES and ours and paper:
                    found.append(ours / paper)
        return found


def run(tasks: Sequence[Task], jobs: int, say: Console) -> Iterator[Measured]:
    """Measures the tasks in `jobs` processes. Yields them as they are done."""
    started_at = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
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
    return Results(duration_s=duration_s, points=points, bounds=bounds, summary=summarize(points))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m load.simulate.curve", description=__doc__)
    parser.add_argument("--full", action="store_true", help="ten seeds of an hour each, all cases, with ablations")
    parser.add_argument("--case", action="append", help="may be given several times")
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
    main()
