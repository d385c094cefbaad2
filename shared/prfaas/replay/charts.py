"""Charts of one or several runs, as Plotly takes them: plain dictionaries, drawn by the report's page."""

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from prfaas.replay.axes import log_seconds, log_tokens
from prfaas.replay.results import Run
from prfaas.replay.rows import RequestRow

Trace = dict[str, Any]

COLORS = ("#3d7dea", "#e8710a", "#12a178", "#9a5ce0", "#d9415d", "#7d8590", "#c79a00", "#0fa3b8")
ERROR_COLOR = "#d9415d"
MUTED_COLOR = "#8b949e"
MAX_POINTS = 3000
"""Points of a scatter chart; of more requests a sample is drawn."""
MAX_BINS = 90
_BIN_WIDTHS_S = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
_CDF_SHARES = np.unique(np.concatenate([np.linspace(0, 0.98, 197), np.linspace(0.98, 1, 81)]))
_LENGTH_BINS = 24


class Chart(NamedTuple):
    title: str
    caption: str
    traces: list[Trace]
    layout: dict[str, Any]
    size: str = ""
    """`wide`: the whole width; `half`: half of it; else a third."""


def color_of(index: int) -> str:
    return COLORS[index % len(COLORS)]


def latency_charts(runs: Sequence[Run], names: Sequence[str]) -> list[Chart]:
    """Cumulative distributions of the requests that were answered in full."""
    found = []
    for title, field, limit in (
        ("Time to first token", "ttft_s", "ttft_s"),
        ("Time per output token", "tpot_s", "tpot_s"),
        ("Request latency, end to end", "e2e_s", "e2e_s"),
    ):
        values = {}
        for run, name in zip(runs, names, strict=True):
            rows = [row for row in run.measured if not row.error]
            values[name] = [value for row in rows if (value := getattr(row, field)) is not None]
        found.append(cdf_chart(title, values, getattr(runs[0].setup.slo, limit)))
    return found


def cdf_chart(title: str, values_s: Mapping[str, Sequence[float]], slo_s: float | None) -> Chart:
    """Cumulative distributions of times in seconds, by name."""
    traces = [_cdf(values, name, color_of(index)) for index, (name, values) in enumerate(values_s.items()) if values]
    layout: dict[str, Any] = {
        "xaxis": log_seconds((x for trace in traces for x in trace["x"]), ""),
        "yaxis": {
            "title": "share of requests",
            "range": [0, 1.01],
            "tickvals": [0, 0.25, 0.5, 0.75, 0.9, 1],
            "tickformat": ".0%",
        },
        "shapes": [_vertical(slo_s)] if slo_s else [],
        "showlegend": len(values_s) > 1,
    }
    return Chart(title, "Dashed: the SLO." if slo_s else "", traces, layout)


def _cdf(values: Sequence[float], name: str, color: str) -> Trace:
    """Every value as a step where they are few, else a line through quantiles."""
    xs, ys = np.quantile(np.asarray(values), _CDF_SHARES), _CDF_SHARES
    if few := len(values) <= len(_CDF_SHARES):
        ordered = sorted(values)
        xs, ys = np.array([ordered[0], *ordered]), np.arange(len(values) + 1) / len(values)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": _short(xs),
        "y": _short(ys),
        "line": {"color": color, "width": 2, "shape": "hv" if few else "linear"},
        "hovertemplate": "%{y:.1%} within %{x:.4g} s<extra>" + plain(name) + "</extra>",
    }


def rate_chart(run: Run) -> Chart:
    """Requests per second over time: due, answered, within the SLO, failed."""
    edges = bin_edges(run)
    slo = run.setup.slo
    rows = run.requests
    traces = [
        _line("offered", edges, _rate([row.due_s for row in rows], edges), MUTED_COLOR, dash="dot"),
        _line("answered", edges, _rate([row.last_s for row in rows if not row.error], edges), COLORS[0]),
    ]
    if run.summary.goodput is not None:
        traces.append(_line("goodput, by due time", edges, _rate([row.due_s for row in rows if row.kept(slo)], edges), COLORS[2]))
    failed = _rate([row.due_s for row in rows if row.error], edges)
    if any(failed):
        traces.append(_line("errors", edges, failed, ERROR_COLOR))
    return Chart(
        "Rate, goodput and errors", "Shaded: the warm-up, left out of all figures.", traces,
        _over_time(run, "requests/s"), size="wide",
    )  # fmt: skip


def ttft_chart(run: Run) -> Chart:
    """Each request's TTFT at the moment at which it was due."""
    traces = _by_place(run, lambda row: row.due_s, lambda row: row.ttft_s, "due at %{x:.1f} s<br>TTFT %{y:.3f} s")
    layout = _over_time(run, "TTFT (s)")
    layout["yaxis"] = log_seconds((y for trace in traces for y in trace["y"]), "TTFT")
    return Chart("Time to first token over time", _sampled(run), traces, layout, size="wide")


def length_chart(run: Run) -> Chart:
    traces = _by_place(
        run, lambda row: max(1, row.uncached_tokens), lambda row: row.ttft_s, "%{x:,} uncached tokens<br>TTFT %{y:.3f} s"
    )
    layout = {
        "xaxis": log_tokens((x for trace in traces for x in trace["x"]), "uncached prompt tokens"),
        "yaxis": log_seconds((y for trace in traces for y in trace["y"]), "TTFT"),
        "showlegend": True,
    }
    return Chart("Time to first token by uncached length", _sampled(run), traces, layout, size="half")


def site_chart(run: Run) -> Chart | None:
    """Sites of the prefills, by uncached length. None where the server does not say."""
    rows = [row for row in run.measured if row.prefill_site]
    if not rows:
        return None
    lengths = np.array([max(1, row.uncached_tokens) for row in rows])
    edges = np.geomspace(lengths.min(), lengths.max() + 1, _LENGTH_BINS + 1)
    centers = np.sqrt(edges[:-1] * edges[1:])
    traces = []
    for index, site in enumerate(sorted({row.prefill_site for row in rows})):
        own = np.array([max(1, row.uncached_tokens) for row in rows if row.prefill_site == site])
        counts, _ = np.histogram(own, edges)
        traces.append(
            {
                "type": "bar", "name": site, "x": _short(centers), "y": counts.tolist(), "width": _short(np.diff(edges)),
                "marker": {"color": color_of(index)},
                "hovertemplate": "%{y} requests around %{x:,.0f} tokens<extra>" + plain(site) + "</extra>",
            }
        )  # fmt: skip
    layout = {
        "barmode": "stack", "bargap": 0, "xaxis": log_tokens(edges.tolist(), "uncached prompt tokens"),
        "yaxis": {"title": "requests"}, "showlegend": True,
    }  # fmt: skip
    return Chart("Where prefills ran, by uncached length", "Requests of each length.", traces, layout, size="half")


def outcome_chart(run: Run) -> Chart | None:
    """Outcomes over time, as the answers' headers say. None where the server does not say."""
    outcomes = sorted({row.outcome for row in run.requests if row.outcome})
    if not outcomes:
        return None
    edges = bin_edges(run)
    traces = []
    for index, outcome in enumerate(outcomes):
        counts = _counted([row.due_s for row in run.requests if row.outcome == outcome], edges)
        traces.append(
            {
                "type": "bar", "name": outcome, "x": _short(_centers(edges)), "y": counts.tolist(),
                # Other colours than the sites have: an outcome is not a place.
                "marker": {"color": color_of(index + 2)}, "hovertemplate": "%{y}<extra>" + plain(outcome) + "</extra>",
            }
        )  # fmt: skip
    layout = _over_time(run, f"requests in {edges[1] - edges[0]:g} s") | {"barmode": "stack", "bargap": 0.05}
    return Chart("Outcomes", "By the time at which requests were due.", traces, layout, size="half")


def hit_chart(run: Run) -> Chart | None:
    """Share of the prompts' tokens that were cached, over time. None where nothing ever was."""
    rows = [row for row in run.requests if not row.error]
    if not any(row.cached_tokens for row in rows):
        return None
    edges = bin_edges(run)
    due = [row.due_s for row in rows]
    cached, _ = np.histogram(due, edges, weights=[row.cached_tokens for row in rows])
    asked, _ = np.histogram(due, edges, weights=[row.input_tokens for row in rows])
    shares = [float(hit / total) if total else None for hit, total in zip(cached, asked, strict=True)]
    layout = _over_time(run, "share of input tokens")
    layout["yaxis"] |= {"tickformat": ".0%", "range": [0, 1]}
    caption = "Input tokens that the server had cached, as it says."
    return Chart("Cache hit rate", caption, [_line("cached", edges, shares, COLORS[2])], layout, size="half")


def comparison_charts(runs: Sequence[Run], names: Sequence[str]) -> list[Chart]:
    """Distributions with all runs, and what each answered over time."""
    answered, hits = [], []
    for index, (run, name) in enumerate(zip(runs, names, strict=True)):
        edges = bin_edges(run)
        kept = [row.due_s for row in run.requests if row.kept(run.setup.slo)]
        answered.append(_line(name, edges, _rate(kept, edges), color_of(index)))
        if (chart := hit_chart(run)) is not None:
            hits.append(chart.traces[0] | {"name": name, "line": {"color": color_of(index), "width": 2}})
    longest = max(runs, key=lambda run: run.end_s)
    found = [
        *latency_charts(runs, names),
        Chart("Goodput over time", "Requests within the SLO, by the time at which they were due.", answered,
              _over_time(longest, "requests/s"), size="wide"),
    ]  # fmt: skip
    if hits:
        layout = _over_time(longest, "share of input tokens")
        layout["yaxis"] |= {"tickformat": ".0%", "range": [0, 1]}
        found.append(Chart("Cache hit rate", "", hits, layout, size="half"))
    return found


def bin_edges(run: Run) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Edges of at most MAX_BINS equal pieces of the run."""
    end_s = max(run.end_s, _BIN_WIDTHS_S[0])
    width_s = next((width for width in _BIN_WIDTHS_S if end_s / width <= MAX_BINS), end_s / MAX_BINS)
    bins = math.ceil(end_s / width_s)
    return np.linspace(0.0, bins * width_s, bins + 1)


def _by_place(
    run: Run, x: Callable[[RequestRow], float | None], y: Callable[[RequestRow], float | None], hover: str
) -> list[Trace]:
    """One trace per prefill site, or one of all where the server does not say."""
    rows = [row for row in run.requests if not row.error and row.ttft_s is not None]
    if len(rows) > MAX_POINTS:
        rows = random.Random(run.setup.started_at).sample(rows, MAX_POINTS)
    traces = []
    for index, site in enumerate(sorted({row.prefill_site for row in rows})):
        own = [row for row in rows if row.prefill_site == site]
        traces.append(
            {
                "type": "scatter", "mode": "markers", "name": site or "requests",
                "x": _short([x(row) for row in own]), "y": _short([y(row) for row in own]),
                "customdata": [row.index for row in own],
                "marker": {"color": color_of(index), "size": 5, "opacity": 0.6},
                "hovertemplate": "request %{customdata}<br>" + hover + "<extra>" + plain(site) + "</extra>",
            }
        )  # fmt: skip
    return traces


def _sampled(run: Run) -> str:
    answered = sum(not row.error for row in run.requests)
    return f"A sample of {MAX_POINTS:,} of {answered:,} requests." if answered > MAX_POINTS else "One point per request."


def _over_time(run: Run, title: str) -> dict[str, Any]:
    warm_up_s = run.setup.warm_up_s
    shade = {
        "type": "rect", "xref": "x", "yref": "paper", "x0": 0, "x1": warm_up_s, "y0": 0, "y1": 1, "layer": "below",
        "fillcolor": "rgba(128,136,148,0.14)", "line": {"width": 0},
    }  # fmt: skip
    return {
        "xaxis": {"title": "seconds since the start"},
        "yaxis": {"title": title, "rangemode": "tozero"},
        "shapes": [shade] if warm_up_s else [],
        "showlegend": True,
    }


def _line(name: str, edges: Any, values: Sequence[float | None], color: str, dash: str = "solid") -> Trace:
    return {
        "type": "scatter", "mode": "lines", "name": name, "x": _short(_centers(edges)), "y": _short(values),
        "line": {"color": color, "width": 2, "dash": dash},
        "hovertemplate": "%{y:.4g}<extra>" + plain(name) + "</extra>",
    }  # fmt: skip


def _vertical(x: float) -> dict[str, Any]:
    return {
        "type": "line", "xref": "x", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1,
        "line": {"color": MUTED_COLOR, "width": 1.5, "dash": "dash"},
    }  # fmt: skip


def _rate(moments_s: Iterable[float | None], edges: Any) -> list[float]:
    rates: list[float] = (_counted(moments_s, edges) / (edges[1] - edges[0])).tolist()
    return rates


def _counted(moments_s: Iterable[float | None], edges: Any) -> Any:
    return np.histogram([moment for moment in moments_s if moment is not None], edges)[0]


def _centers(edges: Any) -> Any:
    return (edges[:-1] + edges[1:]) / 2


def _short(values: Iterable[float | None]) -> list[float | None]:
    """Five digits are more than a screen shows, and a third of the file."""
    return [None if value is None else float(f"{float(value):.5g}") for value in values]


def plain(name: str) -> str:
    """Plotly reads a few HTML tags in its texts."""
    return name.replace("<", "‹").replace(">", "›").replace("%{", "% {")
