"""`python -m load.simulate.pulling [--seeds N] [--json FILE]`: TTFT and goodput with pulls of prefixes and without, by the link.

The paper's machines with prefix caches, at three rates of the link. All arms of a seed get the same arrivals, and the paper's
rule the threshold that its solver finds for that link. Each rate has a load of its own: what is light on one link drowns another.
"""

import argparse
import math
import os
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table

from load.json_option import add_json_option, write_json
from load.machine import conditions
from load.report import summarize
from load.simulate.cases import MACHINES, Case, cases, solved_threshold, uncached
from load.simulate.compare import SLO, TIMING, WARM_UP
from load.simulate.curve_summary import T_95
from load.simulate.paper import FAR, HOME, scenario
from load.simulate.policies import scheduler_keys
from load.simulate.scenario import LinkSpec
from load.simulate.world import simulate
from prfaas.process import interruption
from prfaas_scheduler.pull_sources import NO_PULLS, PullOptions

SEEDS = 6
SECONDS = 300.0
RATES_GBIT_S = (1.0, 10.0, 100.0)
LOADS = {
    "agentic": {1.0: 0.06, 10.0: 0.25, 100.0: 0.4},
    "reuse": {1.0: 0.15, 10.0: 0.7, 100.0: 0.85},
}
"""Share of what could be carried at 100 Gbit/s if one cache kept everything, by trace and rate."""


class Arm(NamedTuple):
    policy: str
    pulls: PullOptions


PAPER, WITHOUT, WITH = "paper's rule", "no pulls", "pulls"
ARMS = {
    PAPER: Arm("threshold", NO_PULLS),
    WITHOUT: Arm("priced", NO_PULLS),
    WITH: Arm("priced", PullOptions(True, (FAR,))),
}


class Job(NamedTuple):
    trace: str
    gbit_s: float
    arm: str
    seed: int
    seconds: float


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One arm in one run."""

    trace: str
    gbit_s: float
    arm: str
    seed: int
    requests: int
    threshold_tokens: int
    p90_ttft_s: float
    """Percentile of all requests due; infinite where more than a tenth failed."""
    goodput_req_s: float
    kept_share: float
    offloaded_share: float
    cached_share: float
    """Share of all prompt tokens that a prefill worker had cached or had pulled."""
    link_gb: float
    pulled_gb: float
    """Part of it that pulls took, those given up included."""
    near_gb: float
    """Bytes that pulls moved within the pd site."""
    pulls: dict[str, int]


@lru_cache(maxsize=1)
def _case(trace: str, gbit_s: float, seed: int, seconds: float) -> tuple[Case, int]:
    """Returns a case and the paper's threshold in it with that link; made once for the arms that a process simulates."""
    case = cases(LOADS[trace][gbit_s], duration_s=seconds, seed=seed)[trace]()
    return case, solved_threshold(uncached(case.arrivals, case.block_tokens), gbit_s * 1e9 / 8)


def run(job: Job) -> Cell:
    case, threshold_tokens = _case(job.trace, job.gbit_s, job.seed, job.seconds)
    arm = ARMS[job.arm]
    result = simulate(
        scenario(
            MACHINES,
            case.arrivals,
            keys=scheduler_keys(arm.policy, threshold_tokens, SLO.ttft_s),
            link=LinkSpec(rates=((0.0, job.gbit_s * 1e9 / 8),)),
            timing=TIMING,
            cache_bytes=case.cache_bytes,
            block_tokens=case.block_tokens,
            pulls=arm.pulls,
        )
    )
    start_s = WARM_UP * job.seconds
    records = result.records[HOME]
    report = summarize(records, SLO, start_s, job.seconds)
    due = [record for record in records if start_s <= record.arrival.arrival_s < job.seconds]
    times_s = sorted(math.inf if record.error or record.ttft_s is None else record.ttft_s for record in due)
    prompt_tokens = sum(arrival.prompt_tokens for arrival in case.arrivals)
    return Cell(
        trace=job.trace,
        gbit_s=job.gbit_s,
        arm=job.arm,
        seed=job.seed,
        requests=len(due),
        threshold_tokens=threshold_tokens,
        p90_ttft_s=times_s[math.ceil(0.9 * len(times_s)) - 1],
        goodput_req_s=report.goodput_req_s,
        kept_share=report.kept_share,
        offloaded_share=sum(record.prefill_site == FAR for record in due) / len(due),
        cached_share=(result.cached_tokens[HOME] + result.cached_tokens[FAR]) / prompt_tokens,
        link_gb=sum(sum(seconds.values()) for seconds in result.egress_bytes.values()) / 1e9,
        pulled_gb=result.pulled_bytes.get(FAR, 0.0) / 1e9,
        near_gb=result.pulled_bytes.get(HOME, 0.0) / 1e9,
        pulls=result.pulls,
    )


def all_cells(traces: Sequence[str], seeds: int, seconds: float) -> Iterator[Cell]:
    """Yields every arm at every rate with every seed, one simulation per processor at a time."""
    jobs = [
        Job(trace, gbit_s, arm, seed, seconds)
        for trace in traces
        for seed in range(1, seeds + 1)
        for gbit_s in RATES_GBIT_S
        for arm in ARMS
    ]
    with ProcessPoolExecutor(min(len(jobs), os.cpu_count() or 1)) as processes:
        yield from processes.map(run, jobs, chunksize=len(ARMS))


class Ratio(NamedTuple):
    """Geometric mean of the ratio of two arms over the seeds, with its 95 % interval."""

    ratio: float
    low: float
    high: float


def ratio(cells: Sequence[Cell], base: Sequence[Cell], of: Callable[[Cell], float]) -> Ratio | None:
    """Pairs the arms seed by seed. None where one of them has nothing to compare: no goodput, or too many failed for a P90."""
    logs = []
    for cell, other in zip(cells, base, strict=True):
        if not 0 < of(cell) < math.inf or not 0 < of(other) < math.inf:
            return None
        logs.append(math.log(of(cell) / of(other)))
    mean, half = statistics.mean(logs), _half(logs)
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def _half(values: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean; infinite with a single seed."""
    if len(values) < 2:
        return math.inf
    return T_95[min(len(values), len(T_95) - 1)] * statistics.stdev(values) / math.sqrt(len(values))


def p90_ttft_s(cell: Cell) -> float:
    return cell.p90_ttft_s


def goodput_req_s(cell: Cell) -> float:
    return cell.goodput_req_s


def of(cells: Sequence[Cell], trace: str, gbit_s: float, arm: str) -> list[Cell]:
    return [cell for cell in cells if (cell.trace, cell.gbit_s, cell.arm) == (trace, gbit_s, arm)]


def verdict(found: Ratio | None) -> str:
    """Says of a ratio of times whether it is surely below or above 1."""
    if found is None:
        return "not to be compared"
    if found.low <= 1.0 <= found.high:
        return "no difference that is sure"
    return "pulls win" if found.high < 1.0 else "pulls lose"


def table(cells: Sequence[Cell], trace: str) -> Table:
    seeds = len({cell.seed for cell in cells})
    out = Table(title=f"{trace}: means of {seeds} seeds with 95 % intervals; ratios: {WITH} to that arm, seed by seed")
    names = ("Gbit/s", "load", "arm", "P90 TTFT s", "P90 ratio", "good/s", "goodput ratio", "in SLO", "offloaded", "cached")
    for name in (*names, "link GB", "pulled GB", "at home GB", "pulls"):
        out.add_column(name, justify="left" if name in ("arm", "pulls") else "right")
    for gbit_s in RATES_GBIT_S:
        pulling = of(cells, trace, gbit_s, WITH)
        for arm in ARMS:
            found = of(cells, trace, gbit_s, arm)
            pulls = sum((Counter(cell.pulls) for cell in found), Counter[str]())
            out.add_row(
                f"{gbit_s:g}",
                f"{LOADS[trace][gbit_s]:g}",
                arm,
                _mean([cell.p90_ttft_s for cell in found]),
                "" if arm == WITH else _shown(ratio(pulling, found, p90_ttft_s)),
                _mean([cell.goodput_req_s for cell in found]),
                "" if arm == WITH else _shown(ratio(pulling, found, goodput_req_s)),
                f"{statistics.mean(cell.kept_share for cell in found):.1%}",
                f"{statistics.mean(cell.offloaded_share for cell in found):.0%}",
                f"{statistics.mean(cell.cached_share for cell in found):.1%}",
                f"{statistics.mean(cell.link_gb for cell in found):.0f}",
                f"{statistics.mean(cell.pulled_gb for cell in found):.1f}",
                f"{statistics.mean(cell.near_gb for cell in found):.1f}",
                ", ".join(f"{name} {count}" for name, count in sorted(pulls.items())),
            )
        out.add_section()
    return out


def _mean(values: Sequence[float]) -> str:
    if math.inf in values:
        return "fails"
    return f"{statistics.mean(values):.2f} ± {_half(values):.2f}"


def _shown(found: Ratio | None) -> str:
    return "-" if found is None else f"{found.ratio:.3f} [{found.low:.3f}, {found.high:.3f}]"


def summary(cells: Sequence[Cell]) -> dict[str, float]:
    """Ratios of the arm with pulls to the others; those that cannot be had are left out."""
    figures: dict[str, float] = {}
    for trace, loads in LOADS.items():
        for gbit_s in loads:
            pulling = of(cells, trace, gbit_s, WITH)
            for arm, name in ((WITHOUT, "no_pulls"), (PAPER, "paper")):
                for value, of_what in ((p90_ttft_s, "p90_ttft"), (goodput_req_s, "goodput")):
                    found = ratio(pulling, of(cells, trace, gbit_s, arm), value) if pulling else None
                    if found is not None:
                        key = f"{trace}_{gbit_s:g}g_{of_what}_to_{name}"
                        figures |= {key: found.ratio, f"{key}_low": found.low, f"{key}_high": found.high}
    return figures


def measure(traces: Sequence[str], seeds: int, seconds: float) -> list[Cell]:
    """Runs and prints all of it."""
    cells = []
    for cell in all_cells(traces, seeds, seconds):
        cells.append(cell)
        if cell.arm == WITH:
            print(f"{cell.trace}, seed {cell.seed}, {cell.gbit_s:g} Gbit/s: simulated", flush=True)
    console = Console(width=210)
    for trace in traces:
        console.print(table(cells, trace))
        for gbit_s in RATES_GBIT_S:
            found = ratio(of(cells, trace, gbit_s, WITH), of(cells, trace, gbit_s, WITHOUT), p90_ttft_s)
            print(f"{trace}, {gbit_s:g} Gbit/s, P90 TTFT with pulls to without: {_shown(found)}, {verdict(found)}")
    return cells


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m load.simulate.pulling", description=__doc__.splitlines()[0])
    parser.add_argument("--trace", action="append", choices=sorted(LOADS), help="may be given several times; all by default")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each run, in the paper's time; default: %(default)g")
    add_json_option(parser)
    arguments = parser.parse_args()
    at = conditions()
    cells = measure(arguments.trace or [*LOADS], arguments.seeds, arguments.seconds)
    write_json({"summary": summary(cells), "conditions": at, "cells": cells}, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
