"""Charts of what the services told about themselves: links, threshold, queues."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from prfaas.replay import server_metrics as names
from prfaas.replay.charts import MUTED_COLOR, Chart, Trace, color_of, plain
from prfaas.replay.results import Run, Series

MBIT = 8 / 1e6


def service_charts(run: Run) -> list[Chart]:
    charts = (_link_chart(run), _queue_chart(run), _threshold_chart(run), _cache_chart(run))
    return [chart for chart in charts if chart is not None]


def _link_chart(run: Run) -> Chart | None:
    """KV on each link against what the link carries and may carry."""
    traces = []
    # KV that stays within a site crosses no link.
    crossing = [s for s in _named(run, names.KV_BYTES) if s.labels.get("source") != s.labels.get("destination")]
    for index, series in enumerate(crossing):
        at_s, rates = per_second(series)
        traces.append(_line(f"{_link(series)}: KV", at_s, [rate * MBIT for rate in rates], color_of(index)))
    for name, label, dash in (
        (names.GOODPUT, "measured goodput", "dot"),
        (names.LEASED, "leased", "dashdot"),
        (names.BUDGET, "budget", "dash"),
    ):
        for series in _named(run, name):
            if any(series.values):
                values = [value * MBIT for value in series.values]
                traces.append(_line(f"{_link(series)}: {label}", series.at_s, values, MUTED_COLOR, dash))
    if not traces:
        return None
    return Chart("Link use", "KV that arrived, per second, and what the link carries.", traces, _layout("Mbit/s"), size="wide")


def _queue_chart(run: Run) -> Chart | None:
    labels = {names.OPEN_REQUESTS: "open at the gateway", names.WAITING: "waiting for KV", names.RUNNING: "in a batch"}
    traces = []
    for index, (name, label) in enumerate(labels.items()):
        for series in _named(run, name):
            traces.append(_line(label, series.at_s, series.values, color_of(index)))
    caption = "Requests in the services, all workers together."
    return Chart("Queue depth", caption, traces, _layout("requests"), size="half") if traces else None


def _threshold_chart(run: Run) -> Chart | None:
    traces = [_line("threshold", s.at_s, s.values, color_of(3)) for s in _named(run, names.THRESHOLD)]
    caption = "Uncached tokens above which a prefill is offloaded."
    return Chart("Threshold", caption, traces, _layout("tokens"), size="half") if traces else None


def _cache_chart(run: Run) -> Chart | None:
    traces = [_line("fullest worker", s.at_s, s.values, color_of(4)) for s in _named(run, names.CACHE_USE) if any(s.values)]
    if not traces:
        return None
    layout = _layout("share")
    layout["yaxis"] |= {"tickformat": ".2~p"}
    return Chart("KV cache in use", "Of the fullest worker.", traces, layout, size="half")


def per_second(series: Series) -> tuple[list[float], list[float]]:
    """Returns (moments, increase per second) of a counter; a counter that fell was started anew and is left out there."""
    at_s, rates = [], []
    for (before_s, before), (now_s, now) in pairwise(zip(series.at_s, series.values, strict=True)):
        if now >= before and now_s > before_s:
            at_s.append(now_s)
            rates.append((now - before) / (now_s - before_s))
    return at_s, rates


def _named(run: Run, name: str) -> list[Series]:
    return [series for series in run.metrics if series.name == name]


def _link(series: Series) -> str:
    return f"{series.labels.get('source', '?')} to {series.labels.get('destination', '?')}"


def _line(name: str, at_s: Sequence[float], values: Sequence[float], color: str, dash: str = "solid") -> Trace:
    return {
        "type": "scatter", "mode": "lines", "name": name, "x": list(at_s), "y": [float(f"{value:.5g}") for value in values],
        "line": {"color": color, "width": 2, "dash": dash}, "hovertemplate": "%{y:.4g}<extra>" + plain(name) + "</extra>",
    }  # fmt: skip


def _layout(title: str) -> dict[str, Any]:
    return {
        "xaxis": {"title": "seconds since the start"},
        "yaxis": {"title": title, "rangemode": "tozero"},
        "showlegend": True,
    }
