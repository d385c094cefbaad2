"""`python -m load.simulate.pulling [--seeds N] [--json FILE]`: TTFT and goodput with pulls of prefixes and without, by the link.

The paper's machines with prefix caches, at three rates of the link. All arms of a seed get the same arrivals, and the paper's rule
the threshold that its solver finds for that link.
"""

import argparse
import math
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table

from load.json_option import add_json_option, write_json
from load.machine import conditions
from load.report import summarize
from load.simulate.cases import Case, cases, solved_threshold, uncached
from load.simulate.compare import SLO, TIMING, WARM_UP
from load.simulate.curve_summary import T_95
from load.simulate.paper import FAR, HOME, scenario
from load.simulate.policies import scheduler_keys
from load.simulate.arms import MACHINES
from load.simulate.scenario import LinkSpec
from load.simulate.world import simulate
from prfaas.process import interruption
from prfaas_scheduler.pull_sources import NO_PULLS, PullOptions

RATES_GBIT_S = (1.0, 10.0, 100.0)
LOADS = {"agentic": 0.3, "reuse": 0.7}
"""Share of what could be carried if one cache kept everything, by trace."""


class Arm(NamedTuple):
    policy: str
    pulls: PullOptions


ARMS = {
    "paper": Arm("threshold", NO_PULLS),
    "no pulls": Arm("priced", NO_PULLS),
    "within the site": Arm("priced", PullOptions(True)),
    "pulls": Arm("priced", PullOptions(True, (FAR,))),
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
    """Over all requests due; infinite where more than a tenth failed."""
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
def _case(trace: str, seed: int, seconds: float) -> Case:
    return cases(LOADS[trace], duration_s=seconds, seed=seed)[trace]()


@lru_cache(maxsize=1)
def _thresholds(trace: str, seed: int, seconds: float) -> dict[float, int]:
    case = _case(trace, seed, seconds)
    left = uncached(case.arrivals, case.block_tokens)
    return {gbit_s: solved_threshold(left, gbit_s * 1e9 / 8) for gbit_s in RATES_GBIT_S}


def run(job: Job) -> Cell:
    case, threshold_tokens = _case(job.trace, job.seed, job.seconds), _thresholds(job.trace, job.seed, job.seconds)[job.gbit_s]
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


if __name__ == "__main__":
    import time
    trace, gbit, arms, seconds = sys.argv[1], float(sys.argv[2]), sys.argv[3], float(sys.argv[4])
    for arm in ARMS if arms=="all" else arms.split(","):
        s=time.time()
        print(msgspec.json.encode(run(Job(trace,gbit,arm,1,seconds))).decode(), round(time.time()-s,1), flush=True)
