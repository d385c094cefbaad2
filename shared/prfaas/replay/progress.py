"""Figures of a run while it goes on: the last seconds in a window, totals beside it. Bounded, however long the run is."""

from collections import Counter, deque
from typing import NamedTuple

import numpy as np

from prfaas.replay.rows import RequestRow, Slo
from prfaas.replay.sender_process import Progress

WINDOW_S = 10.0
LAG_S = 0.01
"""Delay of the client above which it is said to lag."""


class Figures(NamedTuple):
    elapsed_s: float
    left_s: float | None
    """Time until the last request is due; None where the answers decide it."""
    sent: int
    total: int
    in_flight: int
    done: int
    errors: dict[str, int]
    offered_req_s: float
    achieved_req_s: float
    good_share: float | None
    ttft_p50_s: float | None
    ttft_p90_s: float | None
    tpot_p50_s: float | None
    lag_p99_s: float
    prefill_sites: dict[str, int]


class LiveFigures:
    def __init__(self, slo: Slo, total: int, span_s: float | None) -> None:
        """`span_s`: when the last request is due; None where that is not known."""
        self._slo = slo
        self._total = total
        self._span_s = span_s
        self._sent = self._done = 0
        self._errors: Counter[str] = Counter()
        self._sites: Counter[str] = Counter()
        self._in_flight: dict[int, int] = {}
        self._ended: deque[tuple[float, RequestRow]] = deque()
        self._left: deque[tuple[float, int]] = deque()
        self.cpu_s: dict[int, float] = {}
        self.peak_rss_bytes = 0

    @property
    def done(self) -> int:
        return self._done

    def told(self, part: int, progress: Progress, now_s: float) -> None:
        self._sent += progress.sent
        self._left.append((now_s, progress.sent))
        self._in_flight[part] = progress.in_flight
        self.cpu_s[part] = progress.cpu_s
        self.peak_rss_bytes = max(self.peak_rss_bytes, progress.peak_rss_bytes)
        for row in progress.rows:
            self._done += 1
            self._ended.append((now_s, row))
            if row.error:
                self._errors[row.error] += 1
            elif row.prefill_site:
                self._sites[row.prefill_site] += 1
        self._forget(now_s)

    def at(self, now_s: float) -> Figures:
        self._forget(now_s)
        window_s = min(WINDOW_S, max(now_s, 1e-3))
        rows = [row for _, row in self._ended]
        whole = [row for row in rows if not row.error]
        ttft = [row.ttft_s for row in whole if row.ttft_s is not None]
        tpot = [row.tpot_s for row in whole if row.tpot_s is not None]
        lag = [row.sent_s - row.due_s for row in rows if row.sent_s is not None]
        return Figures(
            elapsed_s=now_s,
            left_s=None if self._span_s is None else max(0.0, self._span_s - now_s),
            sent=self._sent,
            total=self._total,
            in_flight=sum(self._in_flight.values()),
            done=self._done,
            errors=dict(self._errors.most_common()),
            offered_req_s=sum(count for _, count in self._left) / window_s,
            achieved_req_s=len(whole) / window_s,
            good_share=sum(row.kept(self._slo) for row in rows) / len(rows) if rows else None,
            ttft_p50_s=_quantile(ttft, 0.5),
            ttft_p90_s=_quantile(ttft, 0.9),
            tpot_p50_s=_quantile(tpot, 0.5),
            lag_p99_s=_quantile(lag, 0.99) or 0.0,
            prefill_sites=dict(self._sites.most_common()),
        )

    def _forget(self, now_s: float) -> None:
        while self._ended and self._ended[0][0] < now_s - WINDOW_S:
            self._ended.popleft()
        while self._left and self._left[0][0] < now_s - WINDOW_S:
            self._left.popleft()


def _quantile(values: list[float], share: float) -> float | None:
    return float(np.quantile(values, share)) if values else None
