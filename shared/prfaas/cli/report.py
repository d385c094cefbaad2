"""Write the report of one result of `prfaas replay` again, or compare several.

Ratios are to the first result and come with bootstrap intervals; what differs in the set-ups is listed.
"""

import argparse
from pathlib import Path

from prfaas.cli import UsageError
from prfaas.replay.compare import run_names
from prfaas.replay.report_html import write_report
from prfaas.replay.results import ResultError, load_run
from prfaas.replay.terminal import Terminal
from prfaas.replay.text_summary import summary_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULT.json", help="as `prfaas replay` writes them")
    parser.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE.html", help="default: %(default)s")


def run(arguments: argparse.Namespace) -> int:
    console = Terminal()
    try:
        runs = [load_run(path) for path in arguments.results]
        write_report(runs, arguments.out)
    except ResultError as error:
        raise UsageError(str(error)) from error
    console.print(summary_table(dict(zip(run_names(runs), runs, strict=True))))
    console.print(f"report: {arguments.out}")
    return 0
