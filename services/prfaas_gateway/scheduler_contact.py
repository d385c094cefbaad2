"""Contact with the site's leading scheduler, as this gateway's questions show it. Pure: moments of one clock, in s, come in."""

from typing import Final

FIRST_PATIENCE_S: Final = 1.0
"""Wait for an answer before the scheduler is asked again: one that has stopped may have a successor by then. An answer takes
milliseconds; each one that is missed doubles the patience, for a scheduler that is only slow."""
TERM_KEPT_S: Final = 3.0
"""Time for which a greater term than a placement's counts: twice a lease. Terms begin anew with a whole site."""


class SchedulerContact:
    """Knows for how long no scheduler has answered, and the term of the one that leads."""

    def __init__(self) -> None:
        self._silent_since: float | None = None
        self._missed = 0
        """Questions without an answer since the last answer that came late."""
        self._term = 0
        self._term_heard_at = 0.0

    def patience_s(self, most_s: float) -> float:
        """Returns how long to wait for the next answer."""
        return min(most_s, FIRST_PATIENCE_S * float(1 << self._missed))

    def handle_answer(self) -> None:
        self._silent_since = None
        self._missed = 0

    def handle_silence(self, asked_at: float) -> None:
        """Takes that a question got no answer in its time."""
        self.handle_absence(asked_at)
        self._missed = min(self._missed + 1, 8)

    def handle_absence(self, asked_at: float) -> None:
        """Takes that no scheduler leads: none listens, or the one that was asked leads no more."""
        if self._silent_since is None:
            self._silent_since = asked_at

    def silent_s(self, now_s: float) -> float:
        """Returns the time since the first question that got no answer; 0 while questions are answered."""
        return 0.0 if self._silent_since is None else max(0.0, now_s - self._silent_since)

    def takes(self, term: int, now_s: float) -> bool:
        """Returns whether a placement of this term counts: none of a later leadership was heard of."""
        if term < self._term and now_s - self._term_heard_at < TERM_KEPT_S:
            return False
        self._term, self._term_heard_at = term, now_s
        return True
