"""Replay the same workload at rising rates until the SLO breaks: goodput and time to first token over load.

Each rate is a run of its own, with a result that `prfaas report` reads.
"""

import argparse
import datetime
from collections.abc import Sequence
from pathlib import Path

import msgspec

from prfaas.cli import UsageError
from prfaas.cli.replay import REPORT_FILE, make_directory
from prfaas.cli.replay_options import add_target_options, add_workload_options, make_plan, number
from prfaas.process import interruption
from prfaas.replay.results import ResultError, Run, save_run, write_bytes
from prfaas.replay.run import ROWS_FILE, run_plan
from prfaas.replay.senders import SenderError
from prfaas.replay.sweep import Sweep, SweepPoint, broke, point_of, rising, sweep_of
from prfaas.replay.sweep_html import write_sweep
from prfaas.replay.terminal import Terminal
from prfaas.replay.text_summary import summary_table

SWEEP_FILE = "sweep.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_workload_options(parser)
    rates = parser.add_argument_group("rates")
    rates.add_argument("--rates", type=_rates, metavar="A,B,...", help="requests a second, rising")
    rates.add_argument("--from", dest="first", type=number(1e-6), metavar="PER_S", help="first rate, when --rates is not given")
    rates.add_argument(
        "--factor", type=number(1.01), default=1.5, metavar="F", help="from one rate to the next; default %(default)g"
    )
    rates.add_argument("--all-rates", action="store_true", help="go on after the SLO broke")
    add_target_options(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the report; default: sweep-DATE-TIME")


def run(arguments: argparse.Namespace) -> int:
    if (arguments.rates is None) == (arguments.first is None):
        raise UsageError("give either --rates or --from.")
    if arguments.first is not None and arguments.all_rates:
        raise UsageError("--all-rates needs --rates: without a list the sweep ends where the SLO breaks.")
    console = Terminal()
    directory = make_directory(arguments.out or Path(f"sweep-{datetime.datetime.now():%Y%m%d-%H%M%S}"))
    try:
        sweep, runs = interruption.run(_sweep(arguments, directory, console))
        write_bytes(directory / SWEEP_FILE, msgspec.json.format(msgspec.json.encode(sweep), indent=2) + b"\n")
        write_sweep(sweep, runs, directory / REPORT_FILE)
    except (SenderError, ResultError) as error:
        raise UsageError(str(error)) from error
    if sweep.sustained_req_s is not None:
        console.print(f"the SLO holds up to {sweep.sustained_req_s:.3g} requests/s")
    console.print(f"report: {directory / REPORT_FILE}")
    return interruption.INTERRUPTED if runs[-1].interrupted else 0


async def _sweep(arguments: argparse.Namespace, directory: Path, console: Terminal) -> tuple[Sweep, list[Run]]:
    rates: Sequence[float] = arguments.rates or rising(arguments.first, arguments.factor)
    runs: list[Run] = []
    points: list[SweepPoint] = []
    title = ""
    for rate_req_s in rates:
        plan = await make_plan(arguments, rate_req_s)
        title = plan.title
        console.print(f"{title}: {rate_req_s:.3g} requests/s for {plan.survey.span_s:.0f} s")
        result = await run_plan(plan, directory, console)
        name = f"rate-{len(runs) + 1}-{rate_req_s:.4g}.json"
        save_run(result, directory / name)
        (directory / ROWS_FILE).unlink(missing_ok=True)
        runs.append(result)
        points.append(point_of(result, rate_req_s, name))
        console.print(summary_table({f"{rate_req_s:.3g}/s": result}))
        if result.interrupted or (broke(result) and not arguments.all_rates):
            break
    return sweep_of(title, list(zip(rates, runs, strict=False)), points), runs


def _rates(text: str) -> list[float]:
    found = [number(1e-6)(part) for part in text.split(",")]
    if found != sorted(set(found)):
        raise argparse.ArgumentTypeError(f"{text!r} does not rise")
    return found
