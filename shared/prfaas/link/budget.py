"""Egress budget of one process on one link: a token bucket whose rate is a lease. Pure: time comes in.

A lease holds from the moment it was asked for, so it ends here before it ends for the probe that gave it. When no answer has come
for ALONE_AFTER_S, each process may take its own part: then all of them together still keep the budget. Questions may be heard
whose answers are lost, so from the second one on they say that this part will be taken.
"""

from math import inf

from prfaas.contracts.to_prefill import ALONE_AFTER_S, LEASE_S, EgressLease

_BURST_S = 0.02
"""Burst after a pause, in seconds of the rate. Short: with one frame it is all that a second may have too much."""
_FRAME_S = 0.02
_LEAST_FRAME_BYTES = 4 << 10
_USE_MARGIN = 1.5
"""Factor on the rate used lately: room to grow until the next question."""
_CLEAR_S = 0.1
"""Time to drain what is queued, for which a rate is asked."""


class EgressBudget:
    def __init__(self, own_bytes_per_s: float | None, *, leased: bool, now_s: float) -> None:
        """`own_bytes_per_s` is the rate without a lease, None: unbounded. Without `leased` it is the only bound."""
        self._own_bytes_per_s = own_bytes_per_s
        self._leased = leased
        self._lease: EgressLease | None = None
        self._lease_until = -inf
        self._silent_at: float | None = None
        """Moment of the first question since the last answer."""
        self._tokens = 0.0
        """Negative after a frame that was larger than what was left."""
        self._refilled_at = now_s
        self._asked_at = now_s
        self._used_bytes = 0
        """Spent since the last question."""

    def bytes_per_s(self, now_s: float) -> float | None:
        """Rate that is allowed now; None: unbounded."""
        lease = self._lease
        if not self._leased:
            return self._own_bytes_per_s
        if lease is not None and (now_s < self._lease_until or lease.bytes_per_s is None):
            return lease.bytes_per_s
        if self._silent_at is not None and now_s >= self._silent_at + ALONE_AFTER_S:
            return self._alone()
        return 0.0

    def held_bytes_per_s(self, now_s: float) -> float | None:
        """Rate that the probe has to count with when the last question is all that it hears; None: unbounded."""
        rate = self.bytes_per_s(now_s)
        if self._silent_at is None or self._asked_at <= self._silent_at:
            return rate
        alone = self._alone()
        return None if rate is None or alone is None else max(rate, alone)

    def allows(self, now_s: float) -> bool:
        """Tells whether the next frame may go, whatever its size."""
        rate = self._refill(now_s)
        return rate is None or self._tokens > 0

    def allows_at(self, now_s: float) -> float | None:
        """Moment from which the next frame may go; None: now. Too early when a lease ends before."""
        rate = self._refill(now_s)
        if rate is None or self._tokens > 0:
            return None
        if rate:
            return now_s + (1.0 - self._tokens) / rate
        ends = [self._lease_until, inf if self._silent_at is None else self._silent_at + ALONE_AFTER_S]
        return min((end for end in ends if end > now_s), default=now_s + LEASE_S)

    def spend(self, size_bytes: int) -> None:
        self._tokens -= size_bytes
        self._used_bytes += size_bytes

    def frame_bytes(self) -> int | None:
        """Largest frame that does not spoil the rate; None: any. Taken from the part that stays the same whichever others send,
        for a frame may leave under another lease than it was cut under."""
        alone = self._alone()
        return None if alone is None else max(int(alone * _FRAME_S), _LEAST_FRAME_BYTES)

    def ask(self, now_s: float, waiting_bytes: int) -> float:
        """Notes a question for a lease. Returns the rate that would be used, in bytes/s."""
        if self._silent_at is None:
            self._silent_at = now_s
        used = self._used_bytes / max(now_s - self._asked_at, _CLEAR_S)
        self._asked_at, self._used_bytes = now_s, 0
        return max(_USE_MARGIN * used, waiting_bytes / _CLEAR_S)

    def take(self, lease: EgressLease, asked_at: float) -> None:
        self._refill(asked_at)
        self._lease, self._lease_until = lease, asked_at + LEASE_S
        self._silent_at = None

    def _alone(self) -> float | None:
        lease = self._lease
        return _least(self._own_bytes_per_s, lease.alone_bytes_per_s if lease is not None else None)

    def _refill(self, now_s: float) -> float | None:
        rate = self.bytes_per_s(now_s)
        elapsed_s = max(0.0, now_s - self._refilled_at)
        self._refilled_at += elapsed_s
        self._tokens = 0.0 if rate is None else min(self._tokens + elapsed_s * rate, rate * _BURST_S)
        return rate


def _least(first: float | None, second: float | None) -> float | None:
    return min((rate for rate in (first, second) if rate is not None), default=None)
