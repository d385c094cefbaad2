"""`python -m load.simulate.robustness [--full] [--json FILE]`: arms whose knowledge of machines, links and objectives is wrong.

One disturbance at a time, on the same arrivals for all arms: noise on each prefill's time, one worker of each site that is slow,
an objective that is half or twice the right one, and an estimate of the link that is 0.4 or 2.6 times what it carries. Requests
are judged by the right objective. With little queueing all arms look alike, so a load below and one above capacity are run.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from load.json_option import add_json_option, write_json
from load.report import percentile
from load.simulate.arms import ARMS, NONE, OURS, PAPER, PAPER_LOOP, PAPER_QUEUE, Disturbance, simulated
from load.simulate.cases import Case, cases
from load.simulate.curve_points import SLO, WARM_UP
from prfaas.process import interruption

COMPARED = (PAPER, PAPER_LOOP, "llm-d", PAPER_QUEUE, OURS)
DISTURBANCES: dict[str, Disturbance] = {
    "none": NONE,
    **{f"noise {sigma:g}": Disturbance(noise=sigma) for sigma in (0.2, 0.4, 0.6)},
    "a straggler, 3 times as slow": Disturbance(straggler=3.0),
    **{f"objective x {factor:g}": Disturbance(told_objective=factor) for factor in (0.5, 2.0)},
    **{f"link estimate x {factor:g}": Disturbance(link_bias=factor) for factor in (0.4, 2.6)},
}


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One arm under one disturbance in one case at one load with one seed."""

    case: str
    load: float
    seed: int
    disturbance: str
    arm: str
    requests: int
    kept_share: float
    """Share of all requests within the objectives."""
    failed_share: float
    """Share that was refused or failed."""
    ttft_p50_s: float
    ttft_p99_s: float


def measure(case: Case, load: float, seed: int, disturbance: str, arm: str) -> Outcome:
    (records,) = simulated(case, ARMS[arm], disturbance=DISTURBANCES[disturbance]).records.values()
    due = [record for record in records if record.arrival.arrival_s >= WARM_UP * case.duration_s]
    ttfts_s = [record.ttft_s for record in due if not record.error and record.ttft_s is not None] or [0.0]
    return Outcome(
        case=case.name,
        load=load,
        seed=seed,
        disturbance=disturbance,
        arm=arm,
        requests=len(due),
        kept_share=sum(map(SLO.kept, due)) / len(due),
        failed_share=sum(bool(record.error) for record in due) / len(due),
        ttft_p50_s=percentile(ttfts_s, 0.5),
        ttft_p99_s=percentile(ttfts_s, 0.99),
    )


def run(names: Sequence[str], loads: Sequence[float], seeds: int, duration_s: float) -> Iterator[Outcome]:
    for seed in range(1, seeds + 1):
        for load in loads:
            for name in names:
                case = cases(load, duration_s=duration_s, seed=seed)[name]()
                for disturbance in DISTURBANCES:
                    for arm in COMPARED:
                        yield measure(case, load, seed, disturbance, arm)


def table(outcomes: Sequence[Outcome], case: str, load: float) -> Table:
    """Kept shares, mean over the seeds: a row per disturbance, a column per arm."""
    out = Table(title=f"{case} at load {load:g}: requests within {SLO.ttft_s:g} s and {SLO.tpot_s * 1000:g} ms per token")
    out.add_column("disturbance")
    for arm in COMPARED:
        out.add_column(arm, justify="right")
    for disturbance in DISTURBANCES:
        cells = []
        for arm in COMPARED:
            shares = [
                at.kept_share for at in outcomes if (at.case, at.load, at.disturbance, at.arm) == (case, load, disturbance, arm)
            ]
            cells.append(f"{sum(shares) / len(shares):.1%}")
        out.add_row(disturbance, *cells)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m load.simulate.robustness", description=__doc__)
    parser.add_argument("--full", action="store_true", help="five seeds of half an hour each, not one of ten minutes")
    add_json_option(parser)
    asked = parser.parse_args()
    names, loads = ("steady", "drop100"), (0.85, 1.05)
    seeds, duration_s = (5, 1800.0) if asked.full else (1, 600.0)
    say, started_at = Console(width=140), time.monotonic()
    outcomes = list(run(names, loads, seeds, duration_s))
    for name in names:
        for load in loads:
            say.print(table(outcomes, name, load))
    say.print(f"{seeds} seeds of {duration_s:g} s each, in {time.monotonic() - started_at:.0f} s")
    write_json({"seeds": seeds, "duration_s": duration_s, "outcomes": outcomes}, asked.json)


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
