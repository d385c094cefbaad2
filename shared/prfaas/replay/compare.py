"""The report of several runs side by side: ratios to the first, and what differs in their set-ups."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from prfaas.replay.bootstrap import BLOCKS, FIGURES, INTERVAL, RESAMPLES, Ratio, figures_of_run, ratios
from prfaas.replay.charts import comparison_charts
from prfaas.replay.figures import count
from prfaas.replay.page_parts import Cell, Page, Table, row
from prfaas.replay.results import Run

FOOTER = (
    f"Intervals: {INTERVAL:.0%}, percentile bootstrap with {RESAMPLES:,} resamples of up to {BLOCKS} pieces of each run's time: "
    "requests that are close together are not independent. Runs of the same workload are resampled in the same pieces. Intervals "
    "say how much of a ratio may be chance within these runs; what another seed or another day would change, only more runs can "
    "say. Coloured: the interval does not hold 1."
)


def comparison_page(runs: Sequence[Run]) -> Page:
    names = run_names(runs)
    return Page(
        title=" / ".join(names),
        subtitle=f"{len(runs)} runs; ratios are to the first, {names[0]}",
        notes=[f"{name}: {note}" for name, run in zip(names, runs, strict=True) for note in run.setup.notes],
        tables_first=[figures_table(runs, names), ratio_table(runs, names)],
        charts=comparison_charts(runs, names),
        tables_last=[difference_table(runs, names)],
        footer=FOOTER,
    )


def run_names(runs: Sequence[Run]) -> list[str]:
    """Returns the titles, with numbers where two are the same."""
    titles = [run.setup.title for run in runs]
    return [f"{title} ({place + 1})" if titles.count(title) > 1 else title for place, title in enumerate(titles)]


def figures_table(runs: Sequence[Run], names: Sequence[str]) -> Table:
    columns = [figures_of_run(run, runs[0].setup.slo).tolist() for run in runs]
    summaries = [run.summary for run in runs]
    rows = [row("requests", *(count(summary.request_count) for summary in summaries))]
    rows.append(row("errors", *(count(summary.error_request_count) for summary in summaries)))
    for place, figure in enumerate(FIGURES):
        values = [column[place] for column in columns]
        rows.append(row(figure.label, *("-" if np.isnan(value) else figure.show(value) for value in values)))
    return Table("Figures", ("", *names), rows)


def ratio_table(runs: Sequence[Run], names: Sequence[str]) -> Table:
    columns = [ratios(runs[0], run) for run in runs[1:]]
    rows = []
    for place, figure in enumerate(FIGURES):
        cells = [Cell(figure.label)]
        for column in columns:
            found = column[place]
            cells.append(Cell("-") if found is None else Cell(_shown(found), _mood(found, figure.more_is_better)))
        rows.append(cells)
    return Table(f"Ratio to {names[0]}", ("", *names[1:]), rows, f"In brackets: the {INTERVAL:.0%} interval.")


def _shown(ratio: Ratio) -> str:
    return f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


def _mood(ratio: Ratio, more_is_better: bool) -> str:
    if not ratio.certain:
        return "dim"
    return "better" if (ratio.value > 1) == more_is_better else "worse"


def difference_table(runs: Sequence[Run], names: Sequence[str]) -> Table:
    """Lists the fields of the set-ups that are not the same in all runs."""
    flat = [_flat(msgspec.to_builtins(run.setup)) for run in runs]
    keys = sorted({key for each in flat for key in each})
    rows = []
    for key in keys:
        values = [each.get(key, "-") for each in flat]
        if len(set(values)) > 1:
            rows.append([Cell(key), *(Cell(value, "wrap") for value in values)])
    return Table("What differs in the set-ups", ("", *names), rows)


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(value, dict):
        return {prefix: str(value)}
    found: dict[str, str] = {}
    for key, inner in value.items():
        found |= _flat(inner, f"{prefix}.{key}" if prefix else key)
    return found
