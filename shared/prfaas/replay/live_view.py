"""A run as it goes on: a table that is drawn anew in a terminal, a line every few seconds elsewhere."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from prfaas.replay.progress import LAG_S, Figures

DRAW_EVERY_S = 0.5
LINE_EVERY_S = 5.0

Draw = Callable[[Figures, dict[str, float]], None]
"""(figures, bytes per second of each link) -> shows them."""


@contextlib.contextmanager
def live_view(console: Console) -> Iterator[tuple[Draw, float]]:
    """Yields what shows the figures, and how often it wants them in seconds."""
    if not console.is_terminal:

        def line(figures: Figures, links: dict[str, float]) -> None:
            console.print(as_line(figures, links))

        yield line, LINE_EVERY_S
        return
    with Live(console=console, auto_refresh=False) as live:

        def draw(figures: Figures, links: dict[str, float]) -> None:
            live.update(as_table(figures, links), refresh=True)

        yield draw, DRAW_EVERY_S


def as_line(figures: Figures, links: dict[str, float]) -> str:
    return ", ".join(f"{name} {value}" for name, value in described(figures, links).items())


def as_table(figures: Figures, links: dict[str, float]) -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    for name, value in described(figures, links).items():
        table.add_row(name, Text(value, style="red" if name == "errors" and figures.errors else ""))
    return table


def described(figures: Figures, links: dict[str, float]) -> dict[str, str]:
    """Names and values, in the order in which they are shown; rates and latencies are of the last ten seconds."""
    found = {
        "time": f"{_clock(figures.elapsed_s)}{_left(figures)}",
        "requests": f"{figures.sent:,} of {figures.total:,} sent, {figures.done:,} done, {figures.in_flight} under way",
        "rate": f"{figures.offered_req_s:.2f}/s offered, {figures.achieved_req_s:.2f}/s answered",
        "TTFT": f"P50 {_seconds(figures.ttft_p50_s)}, P90 {_seconds(figures.ttft_p90_s)}",
        "TPOT": f"P50 {_seconds(figures.tpot_p50_s)}",
        "goodput": "-" if figures.good_share is None else f"{figures.good_share:.0%} in the SLO",
        "errors": _counts(figures.errors) or "none",
    }
    if figures.prefill_sites:
        found["prefilled"] = _counts(figures.prefill_sites)
    for link, bytes_per_s in links.items():
        found[f"link {link}"] = f"{bytes_per_s * 8 / 1e6:.1f} Mbit/s"
    if figures.lag_p99_s > LAG_S:
        found["lag"] = f"this client is {figures.lag_p99_s * 1e3:.0f} ms late (P99)"
    return found


def _left(figures: Figures) -> str:
    if figures.left_s is None:
        return ""
    return f", {_clock(figures.left_s)} to go" if figures.left_s else ", waiting for the last answers"


def _clock(duration_s: float) -> str:
    minutes, seconds = divmod(int(duration_s), 60)
    return f"{minutes}:{seconds:02d}"


def _seconds(value_s: float | None) -> str:
    if value_s is None:
        return "-"
    return f"{value_s:.2f} s" if value_s >= 1 else f"{value_s * 1e3:.0f} ms"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
