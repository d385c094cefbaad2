"""Figures of a run with their uncertainty, by a block bootstrap.

Requests that come close together share queues, so they are not independent: whole pieces of the run's time are drawn, not single
requests. Runs of the same workload are drawn in the same pieces, so that what the traffic brings to both is not taken for chance.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from prfaas.replay.figures import milliseconds, rate, seconds, share
from prfaas.replay.results import Run
from prfaas.replay.rows import RequestRow, Slo

BLOCKS = 40
"""Most pieces into which a run's window is cut."""
MIN_BLOCK_REQUESTS = 5
"""Requests of a piece, in the mean."""
RESAMPLES = 1000
INTERVAL = 0.95
QUANTILES = {"P50": 0.5, "P90": 0.9, "P95": 0.95, "P99": 0.99}
_SEED = 1

Array = np.ndarray[Any, np.dtype[np.float64]]
Draws = np.ndarray[Any, np.dtype[np.int64]]


class Figure(NamedTuple):
    label: str
    show: Callable[[float], str]
    more_is_better: bool


_LATENCIES = (("TTFT", seconds), ("TPOT", milliseconds), ("latency", seconds))
FIGURES = (
    Figure("answered, by due time", rate, True),
    Figure("goodput", rate, True),
    Figure("output tokens, by due time", rate, True),
    Figure("input tokens cached", share, True),
    *(Figure(f"{label} {quantile}", show, False) for label, show in _LATENCIES for quantile in QUANTILES),
)
"""Order of the values that `figures_of` returns."""
_KEPT, _OUTPUT, _INPUT, _CACHED, _TTFT, _TPOT, _E2E = range(7)


class Ratio(NamedTuple):
    value: float
    low: float
    high: float

    @property
    def certain(self) -> bool:
        """True when the interval leaves no doubt that there is a difference."""
        return self.low > 1 or self.high < 1


def ratios(base: Run, other: Run, resamples: int = RESAMPLES) -> list[Ratio | None]:
    """Returns other over base for each of FIGURES; None where there is no such figure. The base's SLO holds for both."""
    slo = base.setup.slo
    own = _over(figures_of_run(other, slo), figures_of_run(base, slo))
    blocks = (_blocks(base, slo), _blocks(other, slo))
    base_draws, other_draws = _draws(resamples, len(blocks[0]), len(blocks[1]), paired=paired(base, other))
    drawn = _over(_resampled(blocks[1], window_s(other), other_draws), _resampled(blocks[0], window_s(base), base_draws))
    found: list[Ratio | None] = []
    for place, value in enumerate(own.tolist()):
        column = drawn[:, place]
        column = column[np.isfinite(column)]
        if not np.isfinite(value) or not len(column):
            found.append(None)
            continue
        low, high = np.quantile(column, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2]).tolist()
        found.append(Ratio(value, low, high))
    return found


def paired(base: Run, other: Run) -> bool:
    """True when both had the same requests at the same times: then the same pieces of time are drawn of both."""
    own, theirs = base.setup, other.setup
    same = own.workload is not None and own.workload == theirs.workload and own.survey == theirs.survey
    return same and own.warm_up_s == theirs.warm_up_s and base.end_s == other.end_s


def figures_of_run(run: Run, slo: Slo) -> Array:
    return figures_of(_table(run.measured, slo), window_s(run))


def figures_of(table: Array, duration_s: float) -> Array:
    """Returns the values of FIGURES, NaN where there is none. `table`: a row per request, as `_table` makes it."""
    answered = table[~np.isnan(table[:, _OUTPUT])]
    asked = answered[:, _INPUT].sum()
    found = [
        len(answered) / duration_s,
        table[:, _KEPT].sum() / duration_s,
        answered[:, _OUTPUT].sum() / duration_s,
        answered[:, _CACHED].sum() / asked if asked else np.nan,
    ]
    for column in (_TTFT, _TPOT, _E2E):
        values = answered[:, column]
        values = values[~np.isnan(values)]
        found += np.quantile(values, list(QUANTILES.values())).tolist() if len(values) else [np.nan] * len(QUANTILES)
    return np.array(found)


def window_s(run: Run) -> float:
    return max(run.end_s - run.setup.warm_up_s, 1e-9)


def _draws(resamples: int, base: int, other: int, *, paired: bool) -> tuple[Draws, Draws]:
    """Returns the pieces that each resample takes, by number."""
    source = np.random.default_rng(_SEED)
    first = source.integers(0, base, (resamples, base))
    return first, first if paired and base == other else source.integers(0, other, (resamples, other))


def _resampled(blocks: Sequence[Array], duration_s: float, draws: Draws) -> Array:
    return np.array([figures_of(np.concatenate([blocks[place] for place in picks]), duration_s) for picks in draws])


def _blocks(run: Run, slo: Slo) -> list[Array]:
    rows = run.measured
    table = _table(rows, slo)
    number = max(1, min(BLOCKS, len(rows) // MIN_BLOCK_REQUESTS))
    since_s = np.array([row.due_s for row in rows]) - run.setup.warm_up_s
    places = np.minimum(number - 1, (since_s / (window_s(run) / number)).astype(int))
    return [table[places == place] for place in range(number)]


def _table(rows: Sequence[RequestRow], slo: Slo) -> Array:
    nan = float("nan")
    table = np.full((len(rows), 7), nan)
    for place, row in enumerate(rows):
        table[place, _KEPT] = row.kept(slo)
        if not row.error:
            latencies = (nan if value is None else value for value in (row.ttft_s, row.tpot_s, row.e2e_s))
            table[place, _OUTPUT:] = (row.output_tokens, row.input_tokens, row.cached_tokens, *latencies)
    return table


def _over(value: Array, base: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: Array = value / base
    return ratio
