"""Parts of a report's page, and the page itself: one HTML file that needs no network."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import msgspec
from markupsafe import Markup

from prfaas.replay.charts import Chart
from prfaas.replay.results import write_bytes


class Cell(NamedTuple):
    text: str
    style: str = ""
    """Class of the page's style sheet."""
    color: str = ""
    """Colour of a small square before the text of a row's first cell."""


class Table(NamedTuple):
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""


class Tile(NamedTuple):
    value: str
    label: str
    mood: str = ""
    """`good`, `bad` or nothing."""


class Page(NamedTuple):
    title: str
    subtitle: str
    charts: Sequence[Chart]
    tables_first: Sequence[Table]
    tables_last: Sequence[Table]
    footer: str
    verdict: str = ""
    notes: Sequence[str] = ()
    tiles: Sequence[Tile] = ()
    command: str = ""


def row(*texts: str, color: str = "") -> list[Cell]:
    first, *others = texts
    return [Cell(first, color=color), *(Cell(text) for text in others)]


def write_page(page: Page, path: Path) -> None:
    """Raises ResultError."""
    write_bytes(path, render(page).encode())


def render(page: Page) -> str:
    folder = files("prfaas.replay") / "page"
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    table_template = environment.from_string((folder / "table.html.j2").read_text("utf-8"))

    def render_table(table: Table) -> Markup:
        return Markup(table_template.render(table=table))

    shown = [chart for chart in page.charts if chart.traces]
    return environment.from_string((folder / "report.html.j2").read_text("utf-8")).render(
        **page._asdict() | {"charts": [_figure(chart) for chart in shown]},
        css=Markup((folder / "report.css").read_text("utf-8")),
        script=Markup((folder / "report.js").read_text("utf-8")),
        plotly=Markup(_plotly()),
        charts_json=_json([{"traces": chart.traces, "layout": chart.layout} for chart in shown]),
        render_table=render_table,
    )


def _figure(chart: Chart) -> dict[str, str]:
    return {"title": chart.title, "caption": chart.caption, "size": chart.size}


def _json(value: Any) -> Markup:
    # In a script element only `</` and `<!--` end the text: no `<` at all is simpler to be sure of.
    return Markup(msgspec.json.encode(value).decode().replace("<", "\\u003c"))


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    source: str = get_plotlyjs()
    return source
