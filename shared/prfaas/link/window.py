"""Bytes that may be under way on a link at once. Pure: time comes in.

Window = clamp(gain x rate x RTT): a little more than the bandwidth-delay product, so the link never runs dry and no queue grows
in front of it. An RTT below ten milliseconds counts as ten: there the processes' own pauses are what the window must cover.
"""

from prfaas.link.config import LinkConfig
from prfaas.link.estimate import MEMORY_S

_FIRST_BYTES = 2 << 20
_LEAST_RTT_S = 0.01
_LEAST_BYTES = 128 << 10
_STARTUP_GAIN = 2.5
_GROWTH = 1.2
_PLATEAU_RTTS = 4
_DRAIN_EVERY_S = 5.0
_DRAIN_GAIN = 0.75


class Window:
    def __init__(self, config: LinkConfig, now_s: float) -> None:
        self._gain = config.window_gain
        self._config = config
        self._least_bytes, self._most_bytes = config.min_window_bytes, config.max_window_bytes
        self.size_bytes = min(max(config.min_window_bytes, _FIRST_BYTES), config.max_window_bytes)
        self.outstanding_bytes = 0
        """Sent and not acknowledged, of all transfers."""
        self._held: dict[int, int] = {}
        self._plateau_bytes_per_s = 0.0
        """Rate from which growth is counted."""
        self._plateau_at = self._updated_at = now_s
        self._drained_at = self._drain_until = now_s

    @property
    def is_open(self) -> bool:
        """May pass by a part of one frame: rounded down to whole frames, small windows would run dry."""
        return self.outstanding_bytes < self.size_bytes

    def hold(self, key: int, outstanding_bytes: int) -> None:
        """Replaces what the transfer `key` has under way."""
        self.outstanding_bytes += outstanding_bytes - self._held.get(key, 0)
        self._held[key] = outstanding_bytes

    def leave(self, key: int) -> None:
        self.outstanding_bytes -= self._held.pop(key, 0)

    def drained(self, now_s: float) -> None:
        """Notes that nothing is under way, so that no queue of ours is in the RTT."""
        self._drained_at = now_s

    def update(self, rate_bytes_per_s: float, rtt_s: float, now_s: float) -> None:
        counted_s = max(rtt_s, _LEAST_RTT_S)
        gain = self._current_gain(rate_bytes_per_s, rtt_s, now_s)
        size_bytes = self._bounded(gain * rate_bytes_per_s * counted_s)
        if now_s - self._drained_at >= _DRAIN_EVERY_S:
            # Our own queue must not pass for the link's RTT: now and then it is let run empty.
            self._drained_at = now_s
            self._drain_until = now_s + self.outstanding_bytes / rate_bytes_per_s + counted_s
        if now_s < self._drain_until:
            size_bytes = min(size_bytes, int(_DRAIN_GAIN * rate_bytes_per_s * counted_s))
        self.size_bytes = size_bytes  # at once: the engine's thread reads it

    def share(self, share: float) -> None:
        """Sets the bounds of a process that has `share` (above 0, to 1) of the link: together all fill it and no more."""
        self._least_bytes = max(int(share * self._config.min_window_bytes), _LEAST_BYTES)
        self._most_bytes = max(int(share * self._config.max_window_bytes), _LEAST_BYTES)

    def clamp(self) -> None:
        self.size_bytes = self._bounded(self.size_bytes)

    def expect(self, rate_bytes_per_s: float, rtt_s: float) -> None:
        """Sizes the window by what others have measured, before the first frame."""
        self.size_bytes = self._bounded(self._gain * rate_bytes_per_s * max(rtt_s, _LEAST_RTT_S))

    def _bounded(self, size_bytes: float) -> int:
        return min(max(int(size_bytes), self._least_bytes), self._most_bytes)

    def _current_gain(self, rate_bytes_per_s: float, rtt_s: float, now_s: float) -> float:
        """More until the rate has stopped growing: a link that is new, or was idle for long, may carry far more than it did."""
        if rate_bytes_per_s > _GROWTH * self._plateau_bytes_per_s or now_s - self._updated_at > MEMORY_S:
            self._plateau_bytes_per_s, self._plateau_at = rate_bytes_per_s, now_s
        self._updated_at = now_s
        return _STARTUP_GAIN if now_s - self._plateau_at < _PLATEAU_RTTS * rtt_s else self._gain

    def validate(self) -> None:
        assert self.outstanding_bytes == sum(self._held.values())
        assert self._least_bytes <= self._most_bytes
