"""`python -m load.simulate [--json FILE] [--quick]`: the paper's three deployments, arrivals raised until the SLO breaks."""

import argparse
import sys
import time

import msgspec
from rich.console import Console
from rich.table import Table

from load.arrivals import poisson
from load.json_option import add_json_option, write_json
from load.report import Report, Slo, summarize
from load.search import Sustained, sustained_rate
from load.simulate.paper import (
    DEPLOYMENTS,
    LENGTHS,
    OUTPUT_TOKENS,
    Deployment,
    mean_length_capacity,
    mean_work_capacity,
    scenario,
)
from load.simulate.world import SimResult, simulate
from prfaas.process import interruption

TPOT_S = 1 / 40
TPOT_SLACK = 1.1
"""A token may take this many times its share of the SLO: 40 tokens/s is exactly what the full batch makes."""
WARM_UP = 0.15
"""Share of a run that is not looked at."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    deployment: str
    ttft_slo_s: float
    sustained_req_s: float
    ratio: float
    """`threshold` to this one, at the same SLO."""
    report: Report | None


class Results(msgspec.Struct, frozen=True, kw_only=True):
    equations_req_s: dict[str, float]
    mean_work_req_s: dict[str, float]
    rows: list[Row]
    summary: dict[str, float]


def report_of(result: SimResult, slo: Slo, duration_s: float) -> Report:
    (records,) = result.records.values()
    return summarize(records, slo, WARM_UP * duration_s, duration_s)


def search(deployment: Deployment, slo: Slo, duration_s: float, seed: int) -> Sustained:
    def run(rate_req_s: float) -> Report:
        arrivals = poisson(LENGTHS, rate_req_s=rate_req_s, duration_s=duration_s, output_tokens=OUTPUT_TOKENS, seed=seed)
        return report_of(simulate(scenario(deployment, arrivals)), slo, duration_s)

    limit = mean_work_capacity(deployment).req_s
    return sustained_rate(run, slo, low_req_s=0.4 * limit, high_req_s=1.2 * limit, tolerance=0.01)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m load.simulate", description=__doc__)
    add_json_option(parser)
    parser.add_argument("--quick", action="store_true", help="shorter runs: rougher figures")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    duration_s = 600.0 if arguments.quick else 3600.0
    slos = (15.0, 30.0, 60.0)
    started_at = time.monotonic()
    found = {
        (name, ttft_s): search(deployment, Slo(ttft_s=ttft_s, tpot_s=TPOT_S * TPOT_SLACK), duration_s, arguments.seed)
        for ttft_s in slos
        for name, deployment in DEPLOYMENTS.items()
    }
    rows = [
        Row(
            deployment=name,
            ttft_slo_s=ttft_s,
            sustained_req_s=at.rate_req_s,
            ratio=found["threshold", ttft_s].rate_req_s / at.rate_req_s if at.rate_req_s else float("inf"),
            report=at.at,
        )
        for (name, ttft_s), at in found.items()
    ]
    equations = {name: mean_length_capacity(deployment).req_s for name, deployment in DEPLOYMENTS.items()}
    work = {name: mean_work_capacity(deployment).req_s for name, deployment in DEPLOYMENTS.items()}
    loosest = {row.deployment: row for row in rows if row.ttft_slo_s == slos[-1]}
    results = Results(
        equations_req_s=equations,
        mean_work_req_s=work,
        rows=rows,
        summary={
            "ratio_homogeneous": loosest["local_only"].ratio,
            "ratio_naive": loosest["remote_all"].ratio,
            "ratio_homogeneous_equations": equations["threshold"] / equations["local_only"],
            "ratio_naive_equations": equations["threshold"] / equations["remote_all"],
            "ratio_homogeneous_mean_work": work["threshold"] / work["local_only"],
            "ratio_naive_mean_work": work["threshold"] / work["remote_all"],
        },
    )
    _print(results, duration_s, time.monotonic() - started_at)
    write_json(results, arguments.json)


def _print(results: Results, duration_s: float, took_s: float) -> None:
    table = Table(title=f"The paper's case, simulated: {duration_s:.0f} s per run ({took_s:.0f} s in all)")
    for column in ("deployment", "TTFT SLO", "sustained req/s", "threshold to it", "TTFT mean", "TTFT P90", "TPOT mean"):
        table.add_column(column, justify="left" if column == "deployment" else "right")
    for name in DEPLOYMENTS:
        for label, rates in (("Eq 3 to 6, T(E[L])", results.equations_req_s), ("E[T(L)], no queue", results.mean_work_req_s)):
            table.add_row(name, label, f"{rates[name]:.2f}", f"{rates['threshold'] / rates[name]:.2f}", "", "", "")
        for row in results.rows:
            if row.deployment == name:
                ttft, tpot = (row.report.ttft, row.report.tpot) if row.report else (None, None)
                table.add_row(
                    name,
                    f"P90 <= {row.ttft_slo_s:g} s",
                    f"{row.sustained_req_s:.2f}",
                    f"{row.ratio:.2f}",
                    f"{ttft.mean_s:.2f}" if ttft else "-",
                    f"{ttft.p90_s:.2f}" if ttft else "-",
                    f"{tpot.mean_s:.4f}" if tpot else "-",
                )
        table.add_section()
    console = Console(width=120)
    console.print(table)
    console.print(
        f"TPOT may be {TPOT_S * TPOT_SLACK * 1000:.1f} ms: the SLO of {1 / TPOT_S:.0f} tokens/s and {TPOT_SLACK - 1:.0%} slack."
    )


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
