"""Round trip, delivery rate and goodput of a link, from its acknowledgements. Pure: time comes in.

The round trip is the smallest acknowledgement time of the last seconds, the rate the largest delivery rate (as in BBR).
Goodput is measured over whole stretches in which the link was busy.
"""

from collections import deque
from typing import NamedTuple

MEMORY_S = 10.0
"""Age at which a sample of RTT or rate is forgotten."""
_BOTTLENECK_MEMORY_S = 1.0
_STRETCH_S = 0.1
_STRETCH_RTTS = 4


class Sent(NamedTuple):
    """Mark of a frame on its way, kept until it is acknowledged."""

    size_bytes: int
    at: float
    delivered_bytes: int
    """Delivered on the link before this frame left."""
    delivered_at: float
    """Moment of that delivery."""


class DeliveryEstimate:
    """Attributes are plain values: the engine's thread reads them."""

    def __init__(self, now_s: float) -> None:
        self.rtt_s: float | None = None
        self.rate_bytes_per_s: float | None = None
        """Largest delivery rate of the last MEMORY_S."""
        self.goodput_bytes_per_s: float | None = None
        """Bytes on the wire per second while the link was busy; until it was for long enough, the best rate seen."""
        self.bottleneck_bytes_per_s: float | None = None
        """Goodput, when the link itself was the bottleneck in the last second; None when the senders were."""
        self.delivered_bytes = 0
        self._delivered_at = now_s
        self._dry_at = now_s
        self._link_limited_at: float | None = None
        self._stretch_at, self._stretch_bytes, self._measured = now_s, 0, False
        self._rates: deque[tuple[float, float]] = deque()
        """(time, bytes/s), decreasing: the first is the largest of the last seconds."""
        self._rtts: deque[tuple[float, float]] = deque()
        """(time, s), increasing."""

    def ran_dry(self, now_s: float) -> None:
        """Notes that the window was open and no transfer had anything to send."""
        self._dry_at = now_s

    def sent(self, size_bytes: int, now_s: float, *, alone: bool) -> Sent:
        """Mark of a frame that leaves now; `alone`: no other is under way."""
        if alone:
            self._delivered_at = now_s
        return Sent(size_bytes, now_s, self.delivered_bytes, self._delivered_at)

    def delivered(self, sent: Sent, now_s: float) -> None:
        """Takes an acknowledged frame: a sample of RTT and of rate."""
        self.delivered_bytes += sent.size_bytes
        self._delivered_at = now_s
        _keep(self._rtts, now_s, now_s - sent.at, smallest=True)
        self.rtt_s = self._rtts[0][1]
        span_s = now_s - sent.delivered_at
        if span_s > 0:
            self._sample_rate(sent, span_s, now_s)
        self._measure_goodput(now_s)
        recent = self._link_limited_at is not None and now_s - self._link_limited_at < _BOTTLENECK_MEMORY_S
        self.bottleneck_bytes_per_s = self.goodput_bytes_per_s if recent else None

    def _sample_rate(self, sent: Sent, span_s: float, now_s: float) -> None:
        rate = (self.delivered_bytes - sent.delivered_bytes) / span_s
        # A sender that ran dry meanwhile made this rate, not the link: it may only raise what is known.
        source_limited = self._dry_at >= sent.delivered_at
        stale = not self._rates or self._rates[0][0] < now_s - MEMORY_S
        if stale or not source_limited or rate >= self._rates[0][1]:
            _keep(self._rates, now_s, rate, smallest=False)
        if not source_limited:
            self._link_limited_at = now_s
        self.rate_bytes_per_s = self._rates[0][1]

    def _measure_goodput(self, now_s: float) -> None:
        """Averages whole busy stretches: acknowledgements come in bunches, so the largest rate of single frames is too large by
        a third and more."""
        if self._dry_at >= self._stretch_at:
            self._stretch_at, self._stretch_bytes = now_s, self.delivered_bytes
        span_s = now_s - self._stretch_at
        if span_s >= max(_STRETCH_S, _STRETCH_RTTS * self._rtts[0][1]):
            rate = (self.delivered_bytes - self._stretch_bytes) / span_s
            known = self.goodput_bytes_per_s if self._measured else rate
            self.goodput_bytes_per_s = ((known or rate) + rate) / 2
            self._measured = True
            self._stretch_at, self._stretch_bytes = now_s, self.delivered_bytes
        elif not self._measured and self._rates:
            self.goodput_bytes_per_s = self._rates[0][1]

    def validate(self) -> None:
        assert all(first[1] > second[1] for first, second in zip(self._rates, list(self._rates)[1:], strict=False))
        assert all(first[1] < second[1] for first, second in zip(self._rtts, list(self._rtts)[1:], strict=False))


def _keep(samples: deque[tuple[float, float]], now_s: float, value: float, *, smallest: bool) -> None:
    """Keeps a sliding minimum (or maximum): later samples push out earlier ones that can never win again."""
    while samples and (samples[-1][1] >= value if smallest else samples[-1][1] <= value):
        samples.pop()
    samples.append((now_s, value))
    while samples[0][0] < now_s - MEMORY_S:
        samples.popleft()
