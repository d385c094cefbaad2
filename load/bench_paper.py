"""`python -m load.bench_paper [--json FILE] [--quick]`: the paper's case end to end, arrivals raised until the SLO breaks.

Real services, real NATS servers and an emulated WAN link; engines emulated at the paper's counts, with time, bytes and tokens
scaled to this machine. Each deployment (9 + 3; 4 + 8; 4 + 3 + 5) is brought up in turn.
"""

import argparse
import sys
import time
from pathlib import Path

import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

from infra.nats_server import NatsServerError
from infra.service_process import ServiceProcessError
from infra.wan.process import WanProcessError
from load.paper_run import LiveDeployment, LiveRun, live
from load.paper_stack import Scales
from load.report import Report, Slo
from load.simulate.paper import DEPLOYMENTS, Deployment, mean_length_capacity, mean_work_capacity

SLO = Slo(ttft_s=20.0, tpot_s=1.1 / 40)
"""In the paper's seconds. The paper gives 40 tokens/s, which its full batch makes exactly, hence the slack. It gives no TTFT:
this is twice what a prompt of the 90th percentile takes on an idle machine of the slower kind."""
START = 0.92
"""Of the capacity: the first rate that is tried."""
STEP = 1.07
MAX_RUNS = 6
MIN_IDLE = 0.15
MAX_PACING_ERROR = 0.03
REFERENCE = "threshold"


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One deployment. Rates in requests per second of the paper's time."""

    paper_req_s: float
    equations_req_s: float
    """Eq 3 to 6, with T(E[L])."""
    mean_work_req_s: float
    """The same with E[T(L)]."""
    sustained_req_s: float
    """Where the share of requests in the SLO falls below what it asks for."""
    saturated_req_s: float
    """Most answers per second in any run."""
    simulated_saturated_req_s: float
    runs: list[LiveRun]


class Results(msgspec.Struct, frozen=True, kw_only=True):
    scales: Scales
    slo: Slo
    seconds_per_run: float
    deployments: dict[str, Found]
    summary: dict[str, float]


async def climb(at: LiveDeployment, deployment: Deployment, say: Console) -> list[LiveRun]:
    """Raises the rate until the SLO breaks, or lowers it until it holds, and then tries halfway between the two."""
    rate_req_s = START * mean_work_capacity(deployment).req_s
    runs: list[LiveRun] = []
    while len(runs) < MAX_RUNS:
        runs.append(await at.run(rate_req_s))
        say.print(_line(deployment.name, runs[-1]), soft_wrap=True)
        held = [run.rate_req_s for run in runs if run.report.sustained(SLO)]
        broke = [run.rate_req_s for run in runs if not run.report.sustained(SLO)]
        if not broke:
            rate_req_s = max(held) * STEP
        elif not held:
            rate_req_s = min(broke) / STEP
        elif min(broke) > max(held) * (STEP + 1) / 2:
            rate_req_s = (min(broke) + max(held)) / 2
        else:
            break
    return runs


def sustained(runs: list[LiveRun]) -> float:
    """The rate at which the kept share crosses the SLO's, read off the line between the two runs next to it; 0: none held."""
    held = max((run for run in runs if run.report.sustained(SLO)), key=lambda run: run.rate_req_s, default=None)
    if held is None:
        return 0.0
    above = [run for run in runs if run.rate_req_s > held.rate_req_s]
    if not above:
        return held.rate_req_s
    broke = min(above, key=lambda run: run.rate_req_s)
    fallen = (held.report.kept_share - SLO.share) / (held.report.kept_share - broke.report.kept_share)
    return held.rate_req_s + fallen * (broke.rate_req_s - held.rate_req_s)


async def measure(scales: Scales, seconds: float, seed: int, say: Console) -> Results:
    found: dict[str, Found] = {}
    for name, deployment in DEPLOYMENTS.items():
        started_s = time.monotonic()
        async with live(deployment, scales, SLO, seconds=seconds, seed=seed) as at:
            say.print(f"{name}: up after {time.monotonic() - started_s:.0f} s")
            runs = await climb(at, deployment, say)
        found[name] = Found(
            paper_req_s=deployment.paper_req_s,
            equations_req_s=mean_length_capacity(deployment).req_s,
            mean_work_req_s=mean_work_capacity(deployment).req_s,
            sustained_req_s=sustained(runs),
            saturated_req_s=max(run.report.completed_req_s for run in runs),
            simulated_saturated_req_s=max(run.simulated.completed_req_s for run in runs),
            runs=runs,
        )
    return Results(scales=scales, slo=SLO, seconds_per_run=seconds, deployments=found, summary=summary(found))


def summary(found: dict[str, Found]) -> dict[str, float]:
    out = {}
    for field, suffix in (
        ("sustained_req_s", ""),
        ("saturated_req_s", "_saturated"),
        ("simulated_saturated_req_s", "_simulated"),
        ("mean_work_req_s", "_mean_work"),
        ("equations_req_s", "_equations"),
    ):
        for name, label in (("local_only", "ratio_homogeneous"), ("remote_all", "ratio_naive")):
            base = getattr(found[name], field)
            out[label + suffix] = getattr(found[REFERENCE], field) / base if base else 0.0
    runs = [run for at in found.values() for run in at.runs]
    out["idle_min"] = min(run.cpu.idle for run in runs)
    out["pacing_error_max"] = max(abs(error) for run in runs for error in run.pacing.prefill.values())
    return out


def _line(name: str, run: LiveRun) -> str:
    def figures(report: Report) -> str:
        ttft = f"TTFT mean {report.ttft.mean_s:.2f} P90 {report.ttft.p90_s:.2f} s" if report.ttft else "no answer"
        return f"done {report.completed_req_s:.2f}/s, in SLO {report.kept_share:.1%}, {ttft}"

    errors = f", errors {run.report.errors}" if run.report.errors else ""
    prefill = ", ".join(f"{site} {error:+.1%}" for site, error in run.pacing.prefill.items())
    return (
        f"  {name} at {run.rate_req_s:.2f} req/s: {figures(run.report)}{errors}\n"
        f"    simulated: {figures(run.simulated)}\n"
        f"    CPU idle {run.cpu.idle:.0%}, ours {run.cpu.ours:.0%}; pacing: prefill {prefill}, step {run.pacing.step:+.1%}; "
        f"client late P99 {run.report.lag_p99_s:.3f} s"
    )


def show(results: Results, say: Console) -> None:
    table = Table(title="Throughput in requests per second, and what 4 + 3 + 5 with a threshold makes of it")
    for column in ("", "paper", "Eq 3-6", "E[T(L)]", "simulated, saturated", "measured, saturated", "measured, in SLO"):
        table.add_column(column, justify="left" if not column else "right")
    reference = results.deployments[REFERENCE]
    for name, at in results.deployments.items():
        fields = (
            "paper_req_s",
            "equations_req_s",
            "mean_work_req_s",
            "simulated_saturated_req_s",
            "saturated_req_s",
            "sustained_req_s",
        )
        cells = []
        for field in fields:
            own, best = getattr(at, field), getattr(reference, field)
            cells.append(f"{own:.2f} (x {best / own:.2f})" if own else "-")
        deployment = DEPLOYMENTS[name]
        counts = f"{deployment.n_prfaas} + {deployment.n_prefill} + {deployment.n_decode}"
        table.add_row(f"{name} {counts}", *cells)
    say.print(table)
    summary = results.summary
    if summary["idle_min"] < MIN_IDLE or summary["pacing_error_max"] > MAX_PACING_ERROR:
        say.print(
            f"Careful: idle CPU fell to {summary['idle_min']:.0%} (wanted: {MIN_IDLE:.0%}), and engines were up to "
            f"{summary['pacing_error_max']:.1%} off their pace (wanted: {MAX_PACING_ERROR:.0%}). "
            "This measured the machine as well as the model."
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m load.bench_paper", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="a third of the time per run: rougher figures")
    parser.add_argument("--seconds", type=float, default=55.0, help="of this machine, per run")
    parser.add_argument("--time-scale", type=float, default=5.0, help="seconds of the paper in one of this machine")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    scales = Scales(time=arguments.time_scale)
    seconds = arguments.seconds / 3 if arguments.quick else arguments.seconds
    say = Console(width=150)
    say.print(
        f"One second here is {scales.time:g} of the paper's, one byte {scales.bytes:g}, one token {scales.tokens:g}: "
        f"100 Gbit/s are {scales.link_mbit:.0f} Mbit/s, 20 ms of RTT {scales.rtt_ms:g} ms. SLO: TTFT P90 {SLO.ttft_s:g} s, "
        f"{SLO.tpot_s * 1000:.1f} ms per token. {seconds:g} s per run.\nAll figures below are in the paper's seconds."
    )
    try:
        results = uvloop.run(measure(scales, seconds, arguments.seed, say))
    except (NatsServerError, ServiceProcessError, WanProcessError) as error:
        print(f"load.bench_paper: {error}", file=sys.stderr)
        return 1
    show(results, say)
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(results)) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
