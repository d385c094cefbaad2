"""A link as one server: pieces of KV leave in the order they came, at the rate that the schedule gives at that moment."""

import math
from bisect import bisect_right

from load.simulate.scenario import LinkSpec


class Link:
    def __init__(self, spec: LinkSpec) -> None:
        starts = [start for start, _ in spec.rates]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)) or any(rate < 0 for _, rate in spec.rates):
            raise ValueError(f"a link's rates must start at 0 s, rise in time and not be negative, but they are {spec.rates}.")
        self.rtt_s = spec.rtt_s
        self.sent_bytes: dict[int, float] = {}
        """Bytes sent, by second of the run."""
        self._starts = starts
        self._rates = [rate for _, rate in spec.rates]
        self._free_at = 0.0

    def rate(self, now_s: float) -> float:
        return self._rates[bisect_right(self._starts, now_s) - 1]

    @property
    def free_at(self) -> float:
        """Moment at which all that is queued has left."""
        return self._free_at

    def send(self, size_bytes: float, now_s: float) -> float:
        """Queues bytes. Returns the moment of the last one's arrival; infinite where the link stays cut."""
        start_at = max(now_s, self._free_at)
        self._free_at = self._carry(size_bytes, start_at)
        return self._free_at + self.rtt_s / 2

    def _carry(self, size_bytes: float, at: float) -> float:
        """Counts bytes as sent from a moment on, second by second. Returns the moment of the last one."""
        left_bytes = size_bytes
        while left_bytes > 0:
            if at == math.inf:
                return math.inf
            index = bisect_right(self._starts, at) - 1
            rate = self._rates[index]
            rate_end_at = self._starts[index + 1] if index + 1 < len(self._starts) else math.inf
            # A slice ends where the rate does, where the second does, or with the last byte.
            end_at = min(rate_end_at, math.floor(at) + 1.0) if rate else rate_end_at
            carried = min(left_bytes, rate * (end_at - at)) if rate else 0.0
            if carried:
                self.sent_bytes[math.floor(at)] = self.sent_bytes.get(math.floor(at), 0.0) + carried
            if carried == left_bytes and rate:
                return at + carried / rate
            left_bytes -= carried
            at = end_at
        return at
