"""One trace as a waterfall in the terminal."""

import io
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from infra.otlp_sink import SinkSpan, SpanTree
from prfaas.telemetry import names

SITE_STYLES = ("cyan", "yellow", "magenta", "green", "blue")

MIN_BAR_WIDTH = 24

DETAILS: dict[str, Callable[[Any], str]] = {
    names.OUTCOME: str,
    names.USAGE_INPUT_TOKENS: lambda tokens: f"{tokens:,} tokens in",
    names.USAGE_OUTPUT_TOKENS: lambda tokens: f"{tokens:,} out",
    names.PREFILL_TOKENS: lambda tokens: f"{tokens:,} tokens",
    names.KV_BYTES: lambda size: _bytes(size),
    names.KV_OVERLAP_RATIO: lambda ratio: f"overlap {ratio:.0%}",
    names.KV_GOODPUT: lambda rate: f"{_bytes(rate)}/s",
    names.KV_RESIDUAL_S: lambda residual_s: f"residual {_seconds(residual_s)}",
    names.KV_FRAMES: lambda frames: f"{frames:,} frames",
    names.ERROR_TYPE: str,
}
"""Attributes that are shown on a line, in this order."""


def waterfall(spans: Sequence[SinkSpan], *, width: int = 120, color: bool = False) -> str:
    """Returns text of `width` columns (80 and more), with ANSI colours per site if asked for. Below 100 it has no details."""
    tree = SpanTree(spans)
    if not tree.spans:
        return "no spans\n"
    rows = tree.walk()
    begin_ns = min(span.start_ns for span in tree.spans)
    total_ns = max(1, max(span.end_ns for span in tree.spans) - begin_ns)
    places = {span.span_id: f"{span.site} {span.service.removeprefix('prfaas-')}".strip() for span in tree.spans}
    sites = sorted({span.site for span in tree.spans})

    with_details = width >= 100
    details = {span.span_id: _details(span) if with_details else "" for span in tree.spans}
    place_width = min(max(map(len, places.values())), width // 4)
    name_width = min(max(2 * depth + len(span.name) for depth, span in rows), width // 4)
    time_width, gaps = 8, 2 * (4 if with_details else 3)
    free_width = width - place_width - name_width - time_width - gaps
    detail_width = max(0, min(max(map(len, details.values())), free_width - MIN_BAR_WIDTH))
    bar_width = max(MIN_BAR_WIDTH, free_width - detail_width)

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    axis = f"0{_seconds(total_ns / 1e9):>{bar_width - 1}}"
    table.add_column("site, service", no_wrap=True, width=place_width)
    table.add_column("span", no_wrap=True, width=name_width)
    table.add_column(axis, no_wrap=True, width=bar_width)
    table.add_column("time", no_wrap=True, width=time_width, justify="right")
    if detail_width:
        table.add_column("", no_wrap=True, width=detail_width)
    for depth, span in rows:
        style = "red" if span.failed else SITE_STYLES[sites.index(span.site) % len(SITE_STYLES)]
        cells = [
            Text(places[span.span_id], style=style),
            Text("  " * depth + span.name),
            Text(_bar(span.start_ns - begin_ns, span.end_ns - begin_ns, total_ns, bar_width), style=style),
            Text(_seconds(span.duration_s)),
        ]
        if detail_width:
            cells.append(Text(details[span.span_id], style="dim"))
        table.add_row(*cells)
    out = io.StringIO()
    console = Console(
        file=out, width=width, force_terminal=color, color_system="standard" if color else None, legacy_windows=False
    )
    console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def _bar(start_ns: int, end_ns: int, total_ns: int, width: int) -> str:
    """Draws a bar of at least one cell, however short the span."""
    first = min(width - 1, start_ns * width // total_ns)
    last = max(first + 1, -(-end_ns * width // total_ns))
    return " " * first + "█" * (last - first)


def _details(span: SinkSpan) -> str:
    parts = [show(span.attributes[name]) for name, show in DETAILS.items() if span.attributes.get(name) is not None]
    if span.failed and span.message:
        parts.append(span.message)
    return ", ".join(parts)


def _seconds(duration_s: float) -> str:
    if duration_s >= 100:
        return f"{duration_s:.0f} s"
    if duration_s >= 1:
        return f"{duration_s:.2f} s"
    if duration_s >= 0.1:
        return f"{duration_s * 1e3:.0f} ms"
    return f"{duration_s * 1e3:.1f} ms"


def _bytes(size: float) -> str:
    """Formats bytes in decimal units, as links are rated."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"
