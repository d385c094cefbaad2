"""Decides when a pull is late. Pure: moments come in.

A pull that goes on costs the worker its time, and nothing says that it will end. It is given up when it has not begun soon,
when it cannot end in time at the rate at which it comes, and at the end of its time.
"""

from typing import Final

BEGIN_S: Final = 0.5
"""Time for the first frame: a round trip, and the chunk that the holder computes at that moment."""
JUDGED_FROM_SHARE: Final = 0.25
"""Share of its time after which the rate says when it would end."""


class PullClock:
    def __init__(self, asked_at: float, limit_s: float, total_bytes: int) -> None:
        self._asked_at = asked_at
        self.limit_s = limit_s
        self._total_bytes = total_bytes

    def late(self, now_s: float, frames: int, received_bytes: int) -> str | None:
        """Returns why the pull is given up; None while it may go on."""
        spent_s = now_s - self._asked_at
        if spent_s >= self.limit_s:
            return f"it is not complete after {self.limit_s:.2f} s: {received_bytes} of {self._total_bytes} bytes came"
        if not frames:
            begin_s = min(BEGIN_S, self.limit_s)
            return f"it did not begin within {begin_s:.2f} s" if spent_s >= begin_s else None
        if not received_bytes or spent_s < JUDGED_FROM_SHARE * self.limit_s:
            return None
        needed_s = spent_s * self._total_bytes / received_bytes
        # Half as long again: a link that starts slowly may catch up.
        if needed_s > 1.5 * self.limit_s:
            return f"{received_bytes} of {self._total_bytes} bytes came in {spent_s:.2f} s, and it has {self.limit_s:.2f} s"
        return None
