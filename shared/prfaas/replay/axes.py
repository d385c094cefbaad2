"""Logarithmic axes with labels that a reader understands at once: 1, 2, 5 in each decade, with units."""

import math
from collections.abc import Iterable
from typing import Any

from prfaas.replay.figures import short_count, short_seconds

_STEPS = (1, 2, 5)
_MOST_LABELS = 9


def log_seconds(values_s: Iterable[float | None], title: str) -> dict[str, Any]:
    return _log_axis(values_s, title, short_seconds)


def log_tokens(values: Iterable[float | None], title: str) -> dict[str, Any]:
    return _log_axis(values, title, short_count)


def _log_axis(values: Iterable[float | None], title: str, show: Any) -> dict[str, Any]:
    axis: dict[str, Any] = {"title": title, "type": "log"}
    positive = [value for value in values if value is not None and value > 0]
    if positive:
        ticks = ticks_between(min(positive), max(positive))
        axis |= {"tickvals": ticks, "ticktext": [show(tick) for tick in ticks]}
    return axis


def ticks_between(low: float, high: float) -> list[float]:
    """Returns 1, 2 and 5 of every decade, or only 1 where that would be too many, around [low, high]."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = _STEPS if len(decades) * len(_STEPS) <= 3 * _MOST_LABELS else (1,)
    return [step * 10.0**decade for decade in decades for step in steps]
