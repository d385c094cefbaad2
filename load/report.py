"""Summary of a run's records: rates, latencies, goodput under an SLO, outcomes."""

import math
from collections import Counter
from collections.abc import Sequence

import msgspec
from rich.table import Table

from prfaas.replay.record import Record


class Slo(msgspec.Struct, frozen=True, kw_only=True):
    """Limits that one request must keep to count. A failed request keeps none."""

    ttft_s: float
    tpot_s: float = math.inf
    """Mean time per token after the first."""
    share: float = 0.9
    """Share of the requests that must keep them for a rate to be sustained; 0.9: the 90th percentiles keep them."""

    def kept(self, record: Record) -> bool:
        if record.error or record.ttft_s is None:
            return False
        return record.ttft_s <= self.ttft_s and (record.tpot_s or 0.0) <= self.tpot_s


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds; over the requests that were answered in full."""

    mean_s: float
    p50_s: float
    p90_s: float
    p99_s: float
    max_s: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    window_s: float
    """Length of the part of the run that is looked at."""
    offered_req_s: float
    """Requests that were due in the window."""
    completed_req_s: float
    """Answers that ended in the window, whenever they were asked for."""
    goodput_req_s: float
    """Requests due in the window that kept the SLO."""
    kept_share: float
    """Share of the requests due in the window that kept the SLO."""
    output_tokens_per_s: float
    ttft: Latency | None
    tpot: Latency | None
    gap_p99_s: float | None
    outcomes: dict[str, int]
    prefill_sites: dict[str, int]
    errors: dict[str, int]
    lag_p99_s: float
    """Delay of the client itself."""

    def sustained(self, slo: Slo) -> bool:
        return self.kept_share >= slo.share


def summarize(records: Sequence[Record], slo: Slo, start_s: float, end_s: float) -> Report:
    """Summarizes the window [start_s, end_s) of a run, without its warm-up and without what came after the last arrival.

    Raises ValueError for a window that does not end after it starts."""
    if not start_s < end_s:
        raise ValueError(f"a window must end after it starts, but it goes from {start_s} to {end_s}.")
    window_s = end_s - start_s
    due = [record for record in records if start_s <= record.arrival.arrival_s < end_s]
    whole = [record for record in due if not record.error]
    ended = [record for record in records if not record.error and record.last_s is not None and start_s <= record.last_s < end_s]
    kept = sum(slo.kept(record) for record in due)
    gaps = [gap for record in whole for gap in record.gaps_s]
    return Report(
        window_s=window_s,
        offered_req_s=len(due) / window_s,
        completed_req_s=len(ended) / window_s,
        goodput_req_s=kept / window_s,
        kept_share=kept / len(due) if due else 0.0,
        output_tokens_per_s=sum(record.tokens for record in ended) / window_s,
        ttft=latency([record.ttft_s for record in whole if record.ttft_s is not None]),
        tpot=latency([record.tpot_s for record in whole if record.tpot_s is not None]),
        gap_p99_s=percentile(gaps, 0.99) if gaps else None,
        outcomes=dict(Counter(record.outcome for record in whole)),
        prefill_sites=dict(Counter(record.prefill_site for record in whole)),
        errors=dict(Counter(record.error for record in due if record.error)),
        lag_p99_s=percentile([record.lag_s for record in due], 0.99) if due else 0.0,
    )


def latency(values_s: Sequence[float]) -> Latency | None:
    """None without values."""
    if not values_s:
        return None
    return Latency(
        mean_s=sum(values_s) / len(values_s),
        p50_s=percentile(values_s, 0.5),
        p90_s=percentile(values_s, 0.9),
        p99_s=percentile(values_s, 0.99),
        max_s=max(values_s),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all values do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def table(reports: dict[str, Report], title: str) -> Table:
    """One row per report."""
    out = Table(title=title)
    for column in (
        "",
        "offered/s",
        "done/s",
        "good/s",
        "in SLO",
        "TTFT mean",
        "p50",
        "p90",
        "p99",
        "TPOT mean",
        "sites",
        "errors",
    ):
        out.add_column(column, justify="left" if column in ("", "sites", "errors") else "right")
    for name, report in reports.items():
        ttft = [f"{value:.3f}" for value in _figures(report.ttft)] or ["-"] * 4
        out.add_row(
            name,
            f"{report.offered_req_s:.2f}",
            f"{report.completed_req_s:.2f}",
            f"{report.goodput_req_s:.2f}",
            f"{report.kept_share:.1%}",
            *ttft,
            f"{report.tpot.mean_s:.4f}" if report.tpot else "-",
            _counts(report.prefill_sites),
            _counts(report.errors),
        )
    return out


def _figures(latency: Latency | None) -> list[float]:
    return [latency.mean_s, latency.p50_s, latency.p90_s, latency.p99_s] if latency else []


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
