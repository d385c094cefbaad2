"""Signs of the prefill worker that has a job of this decode worker, or of the queue in which it waits, and when they mean that it
is gone.

A worker is one process. To take a living one for gone costs a second prefill and nothing else, so patience is short. But only a
worker that has no connection, while its site answers, counts as dead: its prompt may be what killed it.
"""

from typing import Final, NamedTuple

from prfaas.bus.patience import Patience

ABSENT_S: Final = 1.0
"""Time without a subscriber for a worker, while its site answers, after which it is dead. One that lost its connection dials
every 0.2 s."""
CUT_S: Final = 2.0
"""The same for a worker of another site that does not answer either: the link between may be back at once."""
SILENT_S: Final = 1.8
"""Time after its last sign at which a worker that still subscribes is given up, if it used to answer at once: it is stopped, or
its link stands still."""
MAX_STEP_S: Final = 1.5
"""Longest time between two looks that counts. This process has stood still for what is beyond it, and could hear no sign."""


class Holder(NamedTuple):
    """Prefill worker that has a job."""

    site: str
    name: str
    incarnation: str | None
    """None: whatever process has the name."""


class Gone(NamedTuple):
    reason: str
    died: bool
    """The worker has no connection, and it is not the link that is down."""


class PrefillWatchCore:
    """Pure: what became of each question to one worker in, its loss out. Moments are of any one clock, in s."""

    def __init__(self, whom: str, now_s: float, patience: Patience, *, own_site: bool) -> None:
        """`whom`: for the reason of a loss. `patience`: with its silence."""
        self._whom = whom
        self._patience = patience
        self._own_site = own_site
        self._looked_at = now_s
        self._absent = False
        self._missing_s = 0.0
        """Time since the last sign, without the time in which this process stood still."""
        self._absent_s: float | None = None
        """Part of it, up to now, in which no process subscribed and the site answered; None while it is not so."""

    @property
    def missing(self) -> bool:
        """Returns whether the last look brought no sign."""
        return self._missing_s > 0.0

    @property
    def absent(self) -> bool:
        """Returns whether the last look found no subscriber."""
        return self._absent

    def handle_sign(self, now_s: float) -> None:
        """Takes an answer of the worker, or that KV has come since the last look."""
        self._looked_at = now_s
        self._absent = False
        self._missing_s = 0.0
        self._absent_s = None

    def handle_absence(self, now_s: float, *, site_answers: bool) -> Gone | None:
        """Takes that no process subscribes for the worker. `site_answers`: whether another question to its site was answered."""
        step_s, self._absent = self._step(now_s), True
        if not site_answers:
            self._absent_s = None
            if self._own_site:
                return None  # its server is only just back: it told that there is no subscriber, and has no queue yet
            self._missing_s += step_s
            if self._missing_s >= CUT_S:
                return self._gone(f"cannot be reached for {self._missing_s:.1f} s, nor can its site", died=False)
            return None
        self._missing_s += step_s
        self._absent_s = 0.0 if self._absent_s is None else self._absent_s + step_s
        if self._absent_s >= ABSENT_S:
            return self._gone("has no connection any more", died=True)
        return None

    def handle_silence(self, now_s: float, *, server_answers: bool) -> Gone | None:
        """Takes that no answer came in time. `server_answers`: whether the own site's server does, if the worker is there."""
        step_s, self._absent = self._step(now_s), False
        self._absent_s = None
        if not server_answers:
            return None
        self._missing_s += step_s
        if self._missing_s >= self._patience.silent_s:
            return self._gone(f"has not answered for {self._missing_s:.1f} s", died=False)
        return None

    def validate(self) -> None:
        assert 0.0 <= (self._absent_s or 0.0) <= self._missing_s

    def _step(self, now_s: float) -> float:
        step_s = min(now_s - self._looked_at, MAX_STEP_S)
        self._looked_at = now_s
        return step_s

    def _gone(self, what: str, *, died: bool) -> Gone:
        return Gone(f"{self._whom} {what}", died)
