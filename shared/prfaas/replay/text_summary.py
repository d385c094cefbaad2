"""Figures of runs as a table for a terminal."""

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from prfaas.replay.results import Run
from prfaas.replay.summary import Distribution

LATENCIES = {
    "time to first token (s)": "time_to_first_token_s",
    "inter-token latency, TPOT (s)": "inter_token_latency_s",
    "request latency (s)": "request_latency_s",
}
COLUMNS = ("mean", "p50", "p90", "p95", "p99")


def summary_table(runs: Mapping[str, Run]) -> Table:
    """One block of rows per run."""
    table = Table()
    table.add_column("")
    for column in COLUMNS:
        table.add_column(column if column == "mean" else column.upper(), justify="right")
    for name, run in runs.items():
        table.add_row(Text(name, style="bold"), *map(Text, _rates(run)))
        for label, field in LATENCIES.items():
            found: Distribution | None = getattr(run.summary, field)
            cells = ["-"] * len(COLUMNS) if found is None else [f"{getattr(found, column):.4g}" for column in COLUMNS]
            table.add_row(label, *cells)
    return table


def _rates(run: Run) -> list[str]:
    summary = run.summary
    good = "" if summary.good_request_fraction is None else f"{summary.good_request_fraction:.1%} in SLO"
    return [
        f"{summary.request_count:,} req",
        f"{summary.offered_request_throughput:.2f}/s due",
        f"{summary.request_throughput:.2f}/s done",
        good,
        f"{summary.error_request_count:,} errors",
    ]
