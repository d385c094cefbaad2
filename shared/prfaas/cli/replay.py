"""Replay a trace, or synthetic traffic, against an OpenAI-compatible server, and write a report of what happened.

Requests leave when they are due, however long earlier answers take, and all latencies count from that moment. Ctrl-C once ends
the sending and writes the report of what was measured. docs/replay.md describes formats, shapes and the report.
"""

import argparse
import contextlib
import datetime
from pathlib import Path

from prfaas.cli import UsageError
from prfaas.cli.replay_options import add_target_options, add_workload_options, make_plan, number
from prfaas.process import interruption
from prfaas.replay.report_html import write_report
from prfaas.replay.results import ResultError, Run, save_run
from prfaas.replay.run import ROWS_FILE, run_plan
from prfaas.replay.senders import SenderError
from prfaas.replay.terminal import Terminal
from prfaas.replay.text_summary import summary_table

RESULT_FILE, REPORT_FILE = "report.json", "report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_workload_options(parser)
    parser.add_argument("--rate", type=number(1e-6), metavar="PER_S", help="mean requests a second, by changing the speed")
    add_target_options(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the report; default: replay-DATE-TIME")
    parser.add_argument("--require-slo", action="store_true", help="exit status 1 when fewer than --slo-share keep the SLO")


def run(arguments: argparse.Namespace) -> int:
    console = Terminal()
    directory = arguments.out or Path(f"replay-{datetime.datetime.now():%Y%m%d-%H%M%S}")
    try:
        result = interruption.run(_run(arguments, make_directory(directory), console))
    except (SenderError, ResultError) as error:
        raise UsageError(f"{error}{_kept(directory / ROWS_FILE)}") from error
    console.print(summary_table({result.setup.title: result}))
    for note in result.setup.notes:
        console.print(note, style="yellow")
    console.print(f"report: {directory / REPORT_FILE}\nresult: {directory / RESULT_FILE}")
    return _status(result, require_slo=arguments.require_slo, console=console)


async def _run(arguments: argparse.Namespace, directory: Path, console: Terminal) -> Run:
    plan = await make_plan(arguments, arguments.rate)
    survey = plan.survey
    console.print(
        f"{plan.title}: {survey.requests:,} requests, {survey.input_tokens:,} input and {survey.output_tokens:,} output tokens "
        f"in {survey.span_s:.0f} s, to {plan.target.model} at {plan.target.url}. {plan.prompts.checked}",
    )
    result = await run_plan(plan, directory, console)
    save_result(result, directory)
    return result


def save_result(result: Run, directory: Path) -> None:
    """Writes the result and its report; the rows are in them. Raises ResultError."""
    save_run(result, directory / RESULT_FILE)
    write_report([result], directory / REPORT_FILE)
    (directory / ROWS_FILE).unlink(missing_ok=True)


def make_directory(directory: Path) -> Path:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the folder {directory} cannot be made: {error.strerror}.") from error
    return directory


def _kept(rows: Path) -> str:
    """Returns where the requests of a run without a result lie."""
    with contextlib.suppress(OSError):
        if rows.stat().st_size:
            return f" The requests that ended are in {rows}."
    return ""


def _status(result: Run, *, require_slo: bool, console: Terminal) -> int:
    if result.interrupted:
        return interruption.INTERRUPTED
    summary = result.summary
    if not summary.request_count:
        window = f"between the warm-up of {result.setup.warm_up_s:g} s and the end at {result.end_s:.3g} s"
        console.print(f"no request was due {window}: there are no figures", style="red")
        return 1
    if summary.error_request_count == summary.request_count:
        console.print("no request was answered", style="red")
        return 1
    share = summary.good_request_fraction
    if require_slo and (share is None or share < result.setup.slo.share):
        console.print("the SLO is not kept" if share is not None else "there is no SLO to keep: give --slo-ttft", style="red")
        return 1
    return 0
