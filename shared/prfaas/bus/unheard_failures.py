"""Failures of prefills that were told and perhaps not heard, to be told again; pure.

A message is lost when the link or a connection on its way breaks. Without it the decode worker waits until its attempt's time is
over. A decode worker cancels each attempt that is over for it, and that is taken as the sign that it has heard.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from prfaas.contracts.to_decode import PrefillFailed
from prfaas.contracts.to_prefill import CancelPrefill

FIRST_REPEAT_S: Final = 1.0
"""Time until a failure is told a second time. Each further repeat waits twice as long as the one before."""
MAX_UNHEARD: Final = 256
"""Failures that are kept; beyond it the oldest is told no more."""


@dataclass(slots=True)
class _Unheard:
    subject: str
    failed: PrefillFailed
    again_at: float
    pause_s: float
    until_at: float


class UnheardFailures:
    """Moments are of one monotonic clock, in s."""

    def __init__(self) -> None:
        self._unheard: OrderedDict[tuple[str, str, int], _Unheard] = OrderedDict()
        """Failures by decode site, transfer and attempt, the oldest first."""

    def __len__(self) -> int:
        return len(self._unheard)

    def handle_told(self, decode_site: str, subject: str, failed: PrefillFailed, until_at: float, now_s: float) -> None:
        """Notes a failure that was told just now. Its attempt is over by itself at `until_at`."""
        if now_s + FIRST_REPEAT_S >= until_at:
            return
        key = decode_site, failed.transfer_id, failed.attempt
        self._unheard[key] = _Unheard(subject, failed, now_s + FIRST_REPEAT_S, FIRST_REPEAT_S, until_at)
        self._unheard.move_to_end(key)
        while len(self._unheard) > MAX_UNHEARD:
            self._unheard.popitem(last=False)

    def handle_cancel(self, decode_site: str, cancel: CancelPrefill) -> None:
        """Takes that the decode worker has done with this attempt and those before it."""
        heard = [key for key in self._unheard if key[:2] == (decode_site, cancel.transfer_id) and key[2] <= cancel.attempt]
        for key in heard:
            del self._unheard[key]

    def take_due(self, now_s: float) -> list[tuple[str, PrefillFailed]]:
        """Returns (subject, message) of what is to be told again now."""
        due: list[tuple[str, PrefillFailed]] = []
        for key, unheard in list(self._unheard.items()):
            if now_s >= unheard.until_at:
                del self._unheard[key]
            elif now_s >= unheard.again_at:
                unheard.pause_s *= 2
                unheard.again_at = now_s + unheard.pause_s
                due.append((unheard.subject, unheard.failed))
        return due

    def validate(self) -> None:
        assert len(self._unheard) <= MAX_UNHEARD
        assert all(unheard.pause_s >= FIRST_REPEAT_S for unheard in self._unheard.values())
