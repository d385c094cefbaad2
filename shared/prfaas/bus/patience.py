"""Patience with a silent process: the slower its answers were, the longer it is waited for. Pure.

The estimate is that of TCP's retransmission timer (RFC 6298): a smoothed mean and a smoothed deviation of the answers' times.
Where processes wait for a processor, answers take long, and a fixed patience would take living processes for stopped ones.
"""

from typing import Final

MOST_S: Final = 10.0
"""Longest patience: beyond it a process is no use to a request."""
_MEAN_GAIN: Final = 1 / 8
_DEVIATION_GAIN: Final = 1 / 4
_DEVIATIONS: Final = 4.0


class Patience:
    def __init__(self, least_s: float) -> None:
        """`least_s`: patience with a process whose answers took no time."""
        assert 0.0 < least_s <= MOST_S
        self._least_s = least_s
        self._mean_s = 0.0
        self._deviation_s = 0.0

    @property
    def silent_s(self) -> float:
        """Time without an answer after which the process is given up."""
        return min(self._least_s + self._mean_s + _DEVIATIONS * self._deviation_s, MOST_S)

    def handle_answer(self, took_s: float) -> None:
        """Takes the time from a question to its answer."""
        self._deviation_s += _DEVIATION_GAIN * (abs(took_s - self._mean_s) - self._deviation_s)
        self._mean_s += _MEAN_GAIN * (took_s - self._mean_s)

    def validate(self) -> None:
        assert self._least_s <= self.silent_s <= MOST_S
