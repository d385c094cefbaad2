"""The report of a load sweep: goodput and TTFT over load."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prfaas.replay.axes import log_seconds
from prfaas.replay.bootstrap import QUANTILES
from prfaas.replay.charts import COLORS, MUTED_COLOR, Chart, Trace, latency_charts
from prfaas.replay.figures import count, moment, rate, seconds, share
from prfaas.replay.page_parts import Page, Table, row, write_page
from prfaas.replay.results import Run
from prfaas.replay.sweep import Sweep

FOOTER = (
    "Each point is a run of its own with the same workload and seed, faster or slower. Latencies count from the moment at which "
    "a request was due. Beyond the rate that a server carries, queues grow for as long as the run lasts: latencies there say how "
    "long the run was."
)


def write_sweep(sweep: Sweep, runs: Sequence[Run], path: Path) -> None:
    """Raises ResultError."""
    held = "No rate kept the SLO." if sweep.sustained_req_s is None else f"The SLO holds up to {rate(sweep.sustained_req_s)}."
    setup = runs[0].setup
    has_slo = runs[0].summary.good_request_fraction is not None
    page = Page(
        title=f"{sweep.title}: over load",
        subtitle=f"{setup.model} at {setup.target}, {moment(setup.started_at)}",
        verdict=held if has_slo else "There was no SLO: the sweep ended at the first error, or with its last rate.",
        notes=[f"{name}: {note}" for name, run in zip(_names(sweep), runs, strict=True) for note in run.setup.notes],
        charts=[_goodput_chart(sweep), _ttft_chart(sweep, setup.slo.ttft_s), *latency_charts(runs, _names(sweep))],
        tables_first=[_table(sweep)],
        tables_last=[],
        command=setup.command,
        footer=FOOTER,
    )
    write_page(page, path)


def _goodput_chart(sweep: Sweep) -> Chart:
    offered = [point.offered_req_s for point in sweep.points]
    traces = [
        _line("offered", offered, offered, MUTED_COLOR, dash="dot"),
        _line("answered", offered, [point.answered_req_s for point in sweep.points], COLORS[0]),
    ]
    if all(point.goodput_req_s is not None for point in sweep.points):
        traces.append(_line("goodput", offered, [point.goodput_req_s for point in sweep.points], COLORS[2]))
    return Chart("Goodput over load", "Dotted: what is offered.", traces, _layout("requests/s"), size="half")


def _ttft_chart(sweep: Sweep, slo_s: float | None) -> Chart:
    offered = [point.offered_req_s for point in sweep.points]
    traces = []
    for color, name in zip(COLORS, ("P50", "P90", "P99"), strict=False):
        values = [None if point.ttft is None else getattr(point.ttft, name.lower()) for point in sweep.points]
        traces.append(_line(name, offered, values, color))
    layout = _layout("")
    layout["yaxis"] = log_seconds((y for trace in traces for y in trace["y"]), "TTFT")
    if slo_s is not None:
        layout["shapes"] = [
            {
                "type": "line", "xref": "paper", "yref": "y", "x0": 0, "x1": 1, "y0": slo_s, "y1": slo_s,
                "line": {"color": MUTED_COLOR, "width": 1.5, "dash": "dash"},
            }
        ]  # fmt: skip
    caption = "Dashed: the SLO." if slo_s is not None else ""
    return Chart("Time to first token over load", caption, traces, layout, size="half")


def _line(name: str, x: Sequence[float], y: Sequence[float | None], color: str, dash: str = "solid") -> Trace:
    return {
        "type": "scatter", "mode": "lines+markers", "name": name, "x": list(x), "y": list(y),
        "line": {"color": color, "width": 2, "dash": dash}, "marker": {"size": 7},
        "hovertemplate": "%{x:.3g}/s: %{y:.4g}<extra>" + name + "</extra>",
    }  # fmt: skip


def _layout(title: str) -> dict[str, Any]:
    return {
        "xaxis": {"title": "offered requests/s", "rangemode": "tozero"},
        "yaxis": {"title": title, "rangemode": "tozero"},
        "showlegend": True,
    }


def _names(sweep: Sweep) -> list[str]:
    return [rate(point.offered_req_s) for point in sweep.points]


def _table(sweep: Sweep) -> Table:
    rows = []
    for point in sweep.points:
        ttft = ["-"] * len(QUANTILES)
        if point.ttft is not None:
            ttft = [seconds(getattr(point.ttft, name.lower())) for name in QUANTILES]
        rows.append(
            row(
                rate(point.offered_req_s),
                rate(point.answered_req_s),
                "-" if point.goodput_req_s is None else rate(point.goodput_req_s),
                "-" if point.good_share is None else share(point.good_share),
                *ttft,
                count(point.errors),
                point.result,
            )
        )
    header = ("offered", "answered", "goodput", "in SLO", *(f"TTFT {name}" for name in QUANTILES), "errors", "result")
    return Table("Rates", header, rows)
