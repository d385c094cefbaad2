"""`make contrast`: traffic for which offloading pays, has nothing to do, or needs to know what is cached.

`python -m load.simulate.contrast [--seeds 10] [--seconds 1800] [--load 0.8] [--json FILE]`. Mooncake (a tenth of the requests
carry half of the uncached prefill), Azure (short prompts) and coding agents (long prompts, nearly all cached), each under
`local_only`, `threshold` and `priced`, simulated on the paper's 4 + 3 + 5 machines with the code that schedules live.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import msgspec
import numpy as np
from rich.console import Console
from scipy.stats import t as student

from load.json_option import add_json_option, write_json
from load.machine import conditions
from load.simulate.cases import MACHINES, Case, carried_req_s, cases, two_sites
from load.simulate.compare import SLO, WARM_UP, simulated
from load.simulate.paper import FAR, H20
from prfaas.planner.uncached import uncached_tokens
from prfaas.process import interruption
from prfaas.replay.charts import Chart, cdf_chart
from prfaas.replay.figures import rate, seconds, share
from prfaas.replay.page_parts import Page, Table, row, write_page
from prfaas.replay.record import Record
from prfaas.stack.launch import RUN_DIRECTORY
from prfaas.traces import TraceRequest

TRACES = {"reuse": "Mooncake", "azure": "Azure", "agentic": "Agents"}
POLICIES = ("local_only", "threshold", "priced")
BASE = POLICIES[0]
INTERVAL = 0.95
REPORT = RUN_DIRECTORY / "contrast" / "report.html"
FOOTER = (
    "Simulated at the paper's scale: real traces, the schedulers' own code, machines and link by the paper's profiles. The load "
    "is a share of what the pd site carries by itself, without queues and with a cache that forgets nothing. Goodput counts "
    f"requests with {SLO.ttft_s:g} s to the first token and {SLO.tpot_s * 1e3:.1f} ms per token. Each seed draws arrivals "
    "(Mooncake) or sessions (agents) anew; Azure's arrivals are exact, so its seeds are one run. In brackets: Student's interval "
    f"of the ratio's logarithm over the seeds, {INTERVAL:.0%}, each ratio being of two policies under the same seed."
)


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One trace under one policy with one seed."""

    trace: str
    policy: str
    seed: int
    threshold_tokens: int
    requests: int
    goodput_req_s: float
    kept_share: float
    offloaded_share: float
    """Share of the requests whose prefill ran in the remote site."""
    egress_gbit_s: float
    """Mean over the run."""
    ttft_s: list[float]
    """Times of the requests that were answered in full."""


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    ratio: float
    low: float
    high: float


def relative_load(case: Case, local_share: float) -> float:
    """Returns the load, in `cases`' terms, at which the pd site alone would be this busy. `case` is at load 1."""
    prompts = [TraceRequest(0.0, each.prompt_tokens, 0, each.block_ids, case.block_tokens) for each in case.arrivals]
    lengths = [each.prompt_tokens for each in case.arrivals]
    if case.cache_bytes:
        lengths = [max(2, tokens) for tokens in uncached_tokens(prompts)]
    output_tokens = sum(each.output_tokens for each in case.arrivals) / len(case.arrivals)
    alone_req_s = MACHINES.n_prefill * len(lengths) / sum(H20.prefill_s(tokens) for tokens in lengths)
    alone_req_s = min(alone_req_s, two_sites(lengths, output_tokens).decode_req_s(MACHINES.n_decode))
    return local_share * alone_req_s / carried_req_s(lengths, output_tokens)


def measured(case: Case, trace: str, policy: str, seed: int) -> Cell:
    result = simulated(case, policy, case.threshold_tokens)
    (records,) = result.records.values()
    start_s = WARM_UP * case.duration_s
    due: list[Record] = [record for record in records if start_s <= record.arrival.arrival_s < case.duration_s]
    whole = [record for record in due if not record.error]
    kept = sum(SLO.kept(record) for record in due)
    egress_bytes = sum(sum(seconds.values()) for seconds in result.egress_bytes.values())
    return Cell(
        trace=trace,
        policy=policy,
        seed=seed,
        threshold_tokens=case.threshold_tokens,
        requests=len(due),
        goodput_req_s=kept / (case.duration_s - start_s),
        kept_share=kept / len(due) if due else 0.0,
        offloaded_share=sum(record.prefill_site == FAR for record in whole) / len(whole) if whole else 0.0,
        egress_gbit_s=egress_bytes * 8 / 1e9 / case.duration_s,
        ttft_s=[record.ttft_s for record in whole if record.ttft_s is not None],
    )


class Job(NamedTuple):
    """One cell to measure; each builds its own case, so that it may run in a process of its own."""

    trace: str
    policy: str
    seed: int
    load: float
    seconds: float


def run_job(job: Job) -> Cell:
    return measured(_case(job.trace, job.seed, job.load, job.seconds), job.trace, job.policy, job.seed)


@lru_cache(maxsize=1)
def _case(trace: str, seed: int, load: float, seconds: float) -> Case:
    """Builds a case once for the policies that a process simulates in it: reading a trace takes a second or two."""
    return cases(load, duration_s=seconds, seed=seed)[trace]()


def all_cells(seeds: int, seconds: float, local_share: float) -> Iterator[Cell]:
    """Yields every trace under every policy with every seed, one simulation per processor at a time."""
    loads = {trace: relative_load(cases(1.0, duration_s=seconds, seed=1)[trace](), local_share) for trace in TRACES}
    jobs = [
        Job(trace, policy, seed, loads[trace], seconds) for trace in TRACES for seed in range(1, seeds + 1) for policy in POLICIES
    ]
    with ProcessPoolExecutor(min(len(jobs), os.cpu_count() or 1)) as processes:
        yield from processes.map(run_job, jobs)


def ratio_over_seeds(cells: Sequence[Cell], base: Sequence[Cell]) -> Interval | None:
    """Goodput over the base's, seed by seed: geometric mean with its interval. None where either kept nothing."""
    pairs = zip(cells, base, strict=True)
    ratios = [cell.goodput_req_s / other.goodput_req_s if other.goodput_req_s else 0.0 for cell, other in pairs]
    if not all(ratios):
        return None
    logs = np.log(ratios)
    mean = float(logs.mean())
    if len(logs) < 2:
        return Interval(ratio=math.exp(mean), low=0.0, high=math.inf)
    half = float(student.ppf((1 + INTERVAL) / 2, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs)))
    return Interval(ratio=math.exp(mean), low=math.exp(mean - half), high=math.exp(mean + half))


def of(cells: Sequence[Cell], trace: str, policy: str) -> list[Cell]:
    return [cell for cell in cells if (cell.trace, cell.policy) == (trace, policy)]


def table_of(cells: Sequence[Cell], trace: str) -> Table:
    rows = []
    for policy in POLICIES:
        found = of(cells, trace, policy)
        ttft = np.concatenate([cell.ttft_s for cell in found])
        ratio = ratio_over_seeds(found, of(cells, trace, BASE))
        shown = "-" if ratio is None else f"{ratio.ratio:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
        rows.append(
            row(
                policy,
                rate(float(np.mean([cell.goodput_req_s for cell in found]))),
                share(float(np.mean([cell.kept_share for cell in found]))),
                "1" if policy == BASE else shown,
                *(seconds(float(np.quantile(ttft, quantile))) if len(ttft) else "-" for quantile in (0.5, 0.9, 0.99)),
                share(float(np.mean([cell.offloaded_share for cell in found]))),
                f"{np.mean([cell.egress_gbit_s for cell in found]):.2f} Gbit/s",
            )
        )
    header = ("policy", "goodput", "in SLO", f"goodput to {BASE}", "TTFT P50", "P90", "P99", "offloaded", "egress")
    first = of(cells, trace, BASE)
    caption = f"{first[0].requests:,} requests a seed, {len(first)} seeds, threshold {first[0].threshold_tokens:,} tokens."
    return Table(TRACES[trace], header, rows, caption)


def chart_of(cells: Sequence[Cell], trace: str) -> Chart:
    values = {policy: [value for cell in of(cells, trace, policy) for value in cell.ttft_s] for policy in POLICIES}
    return cdf_chart(f"{TRACES[trace]}: time to first token", values, SLO.ttft_s)


def page_of(cells: Sequence[Cell], load: float) -> Page:
    return Page(
        title="Where offloading pays: three traces, three policies",
        subtitle=f"simulated, at {load:g} of what the pd site carries alone",
        tables_first=[table_of(cells, trace) for trace in TRACES],
        charts=[chart_of(cells, trace) for trace in TRACES],
        tables_last=[],
        footer=FOOTER,
        command=f"python -m load.simulate.contrast {' '.join(sys.argv[1:])}".rstrip(),
    )


def summary(cells: Sequence[Cell]) -> dict[str, float]:
    found = {}
    for trace, name in TRACES.items():
        for policy in POLICIES[1:]:
            ratio = ratio_over_seeds(of(cells, trace, policy), of(cells, trace, BASE))
            if ratio is not None:
                found[f"{name.lower()}_{policy}"] = ratio.ratio
                found[f"{name.lower()}_{policy}_low"] = ratio.low
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m load.simulate.contrast", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=1800.0, help="of each run, in the paper's time; default: %(default)g")
    parser.add_argument("--load", type=float, default=0.8, help="of what the pd site carries alone; default: %(default)g")
    add_json_option(parser)
    arguments = parser.parse_args()
    say = Console(soft_wrap=True, highlight=False)
    at, began_s = conditions("prfaas", "simpy"), time.monotonic()
    cells = []
    for cell in all_cells(arguments.seeds, arguments.seconds, arguments.load):
        cells.append(cell)
        kept, offloaded = share(cell.kept_share), share(cell.offloaded_share)
        say.print(f"{TRACES[cell.trace]}, seed {cell.seed}, {cell.policy}: {kept} in SLO, {offloaded} offloaded")
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    write_page(page_of(cells, arguments.load), REPORT)
    write_json({"summary": summary(cells), "conditions": at, "cells": cells}, arguments.json)
    say.print(f"Took {(time.monotonic() - began_s) / 60:.1f} minutes. Report: {REPORT}")
    return 0


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
