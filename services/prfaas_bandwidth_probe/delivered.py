"""Sum of what a link delivers for all workers of a site, from their own counts. Pure: time comes in.

A worker sees only its part of a link that others use too. The link carries the sum at least.
"""

from math import inf

STRETCH_S = 1.0
SILENT_S = 3 * STRETCH_S
"""Age from which a stretch says nothing of the present."""


class DeliveredTogether:
    def __init__(self) -> None:
        self._counts: dict[str, tuple[float, int]] = {}
        """Moment and count of each worker's last word."""
        self._since_s = 0.0
        self._bytes = 0.0
        self._latest_at = -inf
        self._latest_bytes_per_s = 0.0

    def latest_bytes_per_s(self, now_s: float) -> float:
        """Returns the rate of the latest stretch; 0 where it is long ago: workers that send something tell of it."""
        return self._latest_bytes_per_s if now_s - self._latest_at <= SILENT_S else 0.0

    def tell(self, worker: str, delivered_bytes: int, now_s: float) -> float | None:
        """Takes a worker's count since it began. Returns bytes/s at the end of each stretch of about a second, else None."""
        for name in [name for name, (told_s, _) in self._counts.items() if now_s - told_s > STRETCH_S]:
            del self._counts[name]  # it may count anew when it comes back
        if not self._counts:
            self._since_s, self._bytes = now_s, 0.0
        told_s, before = self._counts.get(worker, (now_s, delivered_bytes))
        self._counts[worker] = (now_s, delivered_bytes)
        grown = max(0, delivered_bytes - before)
        if now_s > told_s:
            # A part of it may have come before this stretch began.
            self._bytes += grown * (now_s - max(told_s, self._since_s)) / (now_s - told_s)
        if now_s - self._since_s < STRETCH_S:
            return None
        rate = self._bytes / (now_s - self._since_s)
        self._since_s, self._bytes = now_s, 0.0
        self._latest_at, self._latest_bytes_per_s = now_s, rate
        return rate
