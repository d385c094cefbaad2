"""Figures of a run, named as AIPerf and GuideLLM name them, with units in the names.

`inter_token_latency` is the mean time per token after the first of one request, which vLLM's benchmark calls TPOT.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from prfaas.replay.rows import RequestRow, Slo

PERCENTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    count: int
    mean: float
    std: float
    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


def distribution(values: Sequence[float]) -> Distribution | None:
    """Percentiles lie on the line between the two values next to them (numpy's default). None without values."""
    if not values:
        return None
    array = np.asarray(values, dtype=float)
    found = dict(zip(PERCENTILES, np.quantile(array, list(PERCENTILES.values())).tolist(), strict=True))
    return Distribution(
        count=len(values),
        mean=float(array.mean()),
        std=float(array.std()),
        min=float(array.min()),
        max=float(array.max()),
        **found,
    )


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    benchmark_duration_s: float
    request_count: int
    """Requests that were due in the window."""
    error_request_count: int
    errors: dict[str, int]
    """Error code -> requests."""
    offered_request_throughput: float
    request_throughput: float
    """Answers that ended in the window, whenever they were asked for."""
    goodput: float | None
    """Requests that kept the SLO; None without one."""
    good_request_fraction: float | None
    output_token_throughput: float
    input_token_throughput: float
    time_to_first_token_s: Distribution | None
    inter_token_latency_s: Distribution | None
    request_latency_s: Distribution | None
    max_inter_chunk_latency_s: Distribution | None
    """Longest pause of each answer."""
    input_sequence_length: Distribution | None
    output_sequence_length: Distribution | None
    uncached_input_length: Distribution | None
    cache_read_input_fraction: float
    """Share of the prompts' tokens that the server had cached, as it says."""
    outcomes: dict[str, int]
    prefill_sites: dict[str, int]
    send_lag_s: Distribution | None
    """Delay of the client itself: sent minus due."""


def summarize(rows: Sequence[RequestRow], slo: Slo, start_s: float, end_s: float) -> Summary:
    """Figures of the window [start_s, end_s); latencies are of the requests that were answered in full."""
    window_s = max(end_s - start_s, 1e-9)
    due = [row for row in rows if start_s <= row.due_s < end_s]
    whole = [row for row in due if not row.error]
    ended = [row for row in rows if not row.error and row.last_s is not None and start_s <= row.last_s < end_s]
    input_tokens = sum(row.input_tokens for row in whole)
    has_slo = any(limit is not None for limit in (slo.ttft_s, slo.tpot_s, slo.e2e_s))
    kept = sum(row.kept(slo) for row in due)
    return Summary(
        benchmark_duration_s=window_s,
        request_count=len(due),
        error_request_count=len(due) - len(whole),
        errors=dict(Counter(row.error for row in due if row.error).most_common()),
        offered_request_throughput=len(due) / window_s,
        request_throughput=len(ended) / window_s,
        goodput=kept / window_s if has_slo else None,
        good_request_fraction=kept / len(due) if has_slo and due else None,
        output_token_throughput=sum(row.output_tokens for row in ended) / window_s,
        input_token_throughput=sum(row.input_tokens for row in ended) / window_s,
        time_to_first_token_s=_of(whole, "ttft_s"),
        inter_token_latency_s=_of(whole, "tpot_s"),
        request_latency_s=_of(whole, "e2e_s"),
        max_inter_chunk_latency_s=_of(whole, "max_gap_s"),
        input_sequence_length=_of(whole, "input_tokens"),
        output_sequence_length=_of(whole, "output_tokens"),
        uncached_input_length=_of(whole, "uncached_tokens"),
        cache_read_input_fraction=sum(row.cached_tokens for row in whole) / input_tokens if input_tokens else 0.0,
        outcomes=dict(Counter(row.outcome for row in whole if row.outcome).most_common()),
        prefill_sites=dict(Counter(row.prefill_site for row in whole if row.prefill_site).most_common()),
        send_lag_s=distribution([row.sent_s - row.due_s for row in due if row.sent_s is not None]),
    )


def _of(rows: Sequence[RequestRow], field: str) -> Distribution | None:
    values: list[Any] = [getattr(row, field) for row in rows]
    return distribution([value for value in values if value is not None])
