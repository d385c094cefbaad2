"""What the egress budget lets one process send on one link now: a token bucket whose rate is a lease. Pure: time comes in.

A lease holds from the moment it was asked for, so it ends here before it ends for whoever gave it. When nobody has answered for
ALONE_AFTER_S, each process may take the part that is its own: then all of them together still keep the budget. Questions may be
heard whose answers are lost, so from the second one on they say that this part will be taken.
"""

from math import inf

from prfaas.contracts.to_prefill import ALONE_AFTER_S, LEASE_S, EgressLease

_BURST_S = 0.02
"""What may leave at once after a pause, in seconds of the rate. Short: with a frame it is what a second may have too much."""
_FRAME_S = 0.02
_LEAST_FRAME_BYTES = 4 << 10
_USE_MARGIN = 1.5
"""Of what was used lately, so much is asked for: room to grow until it is asked again."""
_CLEAR_S = 0.1
"""In which what waits should have left."""


class Pace:
    def __init__(self, own_bytes_per_s: float | None, *, leased: bool, now: float) -> None:
        """`own_bytes_per_s`: what may be sent without a lease, None: anything. Not `leased`: nothing else counts."""
        self._own_bytes_per_s = own_bytes_per_s
        self._leased = leased
        self._lease: EgressLease | None = None
        self._lease_until = -inf
        self._silent_since: float | None = None
        """When it was first asked after the last answer."""
        self._tokens = 0.0
        """Below zero after a frame that was larger than what was left."""
        self._refilled_at = now
        self._asked_at = now
        self._used_bytes = 0
        """Since it was asked for last."""

    def bytes_per_s(self, now: float) -> float | None:
        """None: no bound."""
        lease = self._lease
        if not self._leased:
            return self._own_bytes_per_s
        if lease is not None and (now < self._lease_until or lease.bytes_per_s is None):
            return lease.bytes_per_s
        if self._silent_since is not None and now >= self._silent_since + ALONE_AFTER_S:
            return self._alone()
        return 0.0

    def held_bytes_per_s(self, now: float) -> float | None:
        """What whoever shares the link out has to count with when the last question is all that it hears; None: no bound."""
        rate = self.bytes_per_s(now)
        if self._silent_since is None or self._asked_at <= self._silent_since:
            return rate
        alone = self._alone()
        return None if rate is None or alone is None else max(rate, alone)

    def allows(self, now: float) -> bool:
        """To send the next frame, whatever its size."""
        rate = self._refill(now)
        return rate is None or self._tokens > 0

    def allows_at(self, now: float) -> float | None:
        """When it does; None: it does now. May be too early, when a lease ends before."""
        rate = self._refill(now)
        if rate is None or self._tokens > 0:
            return None
        if rate:
            return now + (1.0 - self._tokens) / rate
        ends = [self._lease_until, inf if self._silent_since is None else self._silent_since + ALONE_AFTER_S]
        return min((end for end in ends if end > now), default=now + LEASE_S)

    def spend(self, size_bytes: int) -> None:
        self._tokens -= size_bytes
        self._used_bytes += size_bytes

    def frame_bytes(self) -> int | None:
        """Largest frame that does not spoil the rate; None: any. By the part that stays the same whoever else sends, for a frame
        may leave under another lease than it was cut under."""
        alone = self._alone()
        return None if alone is None else max(int(alone * _FRAME_S), _LEAST_FRAME_BYTES)

    def asking(self, now: float, waiting_bytes: int) -> float:
        """A lease is asked for now: how many bytes/s would be used."""
        if self._silent_since is None:
            self._silent_since = now
        used = self._used_bytes / max(now - self._asked_at, _CLEAR_S)
        self._asked_at, self._used_bytes = now, 0
        return max(_USE_MARGIN * used, waiting_bytes / _CLEAR_S)

    def take(self, lease: EgressLease, asked_at: float) -> None:
        self._refill(asked_at)
        self._lease, self._lease_until = lease, asked_at + LEASE_S
        self._silent_since = None

    def _alone(self) -> float | None:
        lease = self._lease
        return _least(self._own_bytes_per_s, lease.alone_bytes_per_s if lease is not None else None)

    def _refill(self, now: float) -> float | None:
        rate = self.bytes_per_s(now)
        elapsed = max(0.0, now - self._refilled_at)
        self._refilled_at += elapsed
        self._tokens = 0.0 if rate is None else min(self._tokens + elapsed * rate, rate * _BURST_S)
        return rate


def _least(first: float | None, second: float | None) -> float | None:
    return min((rate for rate in (first, second) if rate is not None), default=None)
