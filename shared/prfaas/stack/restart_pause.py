"""Pauses before a process that died is started again: they grow while it keeps dying soon, pure."""

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
STABLE_AFTER_S = 60.0
"""Life after which a process counts as well: its next death is a first one."""


class RestartPause:
    def __init__(self) -> None:
        self._next_s = FIRST_PAUSE_S

    def after_life(self, lived_s: float) -> float:
        """Returns the seconds to wait after a life of `lived_s`."""
        if lived_s >= STABLE_AFTER_S:
            self._next_s = FIRST_PAUSE_S
        pause_s, self._next_s = self._next_s, min(2 * self._next_s, LONGEST_PAUSE_S)
        return pause_s
