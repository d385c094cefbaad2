"""The highest rate that a deployment sustains, found by trying."""

from collections.abc import Callable
from typing import NamedTuple

from load.report import Report, Slo


class Tried(NamedTuple):
    rate_req_s: float
    report: Report


class Sustained(NamedTuple):
    rate_req_s: float
    """The highest rate that kept the SLO; 0 when none did."""
    at: Report | None
    tried: list[Tried]
    """All tries in their order."""


def sustained_rate(
    run: Callable[[float], Report], slo: Slo, *, low_req_s: float, high_req_s: float, tolerance: float = 0.02, max_runs: int = 10
) -> Sustained:
    """Bisects between `low_req_s` and `high_req_s`, which both are tried first, to a relative `tolerance`.

    Raises ValueError for bounds in the wrong order."""
    if not 0 < low_req_s < high_req_s:
        raise ValueError(f"a search needs 0 < low < high, but it got {low_req_s} and {high_req_s}.")
    tried: list[Tried] = []
    best: Tried | None = None

    def sustains(rate_req_s: float) -> bool:
        nonlocal best
        tried.append(Tried(rate_req_s, run(rate_req_s)))
        kept = tried[-1].report.sustained(slo)
        if kept and (best is None or rate_req_s > best.rate_req_s):
            best = tried[-1]
        return kept

    low, high = low_req_s, high_req_s
    if sustains(low) and not sustains(high):
        while high - low > tolerance * low and len(tried) < max_runs:
            middle = (low + high) / 2
            low, high = (middle, high) if sustains(middle) else (low, middle)
    return Sustained(best.rate_req_s if best else 0.0, best.report if best else None, tried)
