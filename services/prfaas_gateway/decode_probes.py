"""Decode workers that have requests of this gateway: whether they are there, and whether all their events have come.

Heartbeats say the same some seconds later. A worker that is only silent may be busy or stopped for a while, and its requests are
left to it for longer where no other worker could go on with them.
"""

from collections.abc import Collection, Mapping
from math import inf
from typing import Final, NamedTuple

from prfaas.bus.patience import Patience
from prfaas.contracts.to_gateway import Running
from prfaas_gateway.decode_workers import DecodeWorker

ABSENT_S: Final = 1.0
"""Time without a subscriber under a worker's name after which it is gone. One that lost its connection dials every 0.2 s."""
SILENT_S: Final = 1.8
"""Time after its last answer at which a worker that still subscribes is given up, if it used to answer at once, and if there is
another one."""
STOOD_STILL_S: Final = 1.5
"""Time from a question to the end of its wait beyond which this process itself stood still, and could hear no answer."""

LOST_AFTER_ANSWERS: Final = 3
"""Answers in a row by which an event was out, and none came."""


class _Behind(NamedTuple):
    """A request of which more events are out than have come."""

    taken: int
    answers: int
    """Answers in a row at which this was so."""


class DecodeProbes:
    """Pure: answers to the question "are you there, and how far" in, losses out. Moments are of any one clock, in s."""

    def __init__(self) -> None:
        self._absent_since: dict[DecodeWorker, float] = {}
        self._heard_at: dict[DecodeWorker, float] = {}
        """Moment of the last answer, or of the first question."""
        self._patience: dict[DecodeWorker, Patience] = {}
        self._behind: dict[str, _Behind] = {}
        """Requests whose events had not all come at the last answer."""

    @property
    def any_absent(self) -> bool:
        return bool(self._absent_since)

    def forget_others(self, present: Collection[DecodeWorker]) -> None:
        """Drops what is known of workers that have no request of this gateway."""
        for known in (self._absent_since, self._heard_at, self._patience):
            for worker in known.keys() - set(present):
                del known[worker]

    def patience_with(self, worker: DecodeWorker) -> Patience:
        """Returns the patience with a worker's silence, which is to hear how long its answers took."""
        return self._patience.setdefault(worker, Patience(SILENT_S))

    def handle_answer(
        self, worker: DecodeWorker, running: Running, asked: Mapping[str, int], taken: Mapping[str, int], now_s: float
    ) -> list[str]:
        """Returns the worker's requests of which events are lost. One was out at an answer, and neither it nor any other has
        come by the second answer after it. Messages of one process stay in order, and none waits for so long.

        `asked` and `taken`: its requests and the events of each that had come when it was asked, and by now."""
        if running.incarnation != worker.incarnation:
            return []  # another process under its name answers too, or instead: heartbeats tell which
        self._absent_since.pop(worker, None)
        self._heard_at[worker] = now_s
        lost = []
        for request_id in asked:
            due = running.events.get(request_id, inf)  # what it no longer knows has ended, and that is an event too
            before = self._behind.pop(request_id, None)
            if request_id not in taken or taken[request_id] >= due:
                continue
            now = _Behind(taken[request_id], 1 if before is None or before.taken != taken[request_id] else before.answers + 1)
            if now.answers >= LOST_AFTER_ANSWERS:
                lost.append(request_id)
            else:
                self._behind[request_id] = now
        return lost

    def resend(self, asked: Mapping[str, int], gaps: Collection[str]) -> dict[str, int]:
        """Returns the number of the first lost event of each request of which one is to be sent again. `asked`: events of each
        request that have come; `gaps`: requests of which a later event has come."""
        return {
            request_id: taken
            for request_id, taken in asked.items()
            if request_id in gaps or ((behind := self._behind.get(request_id)) is not None and behind.taken == taken)
        }

    def handle_absence(self, worker: DecodeWorker, now_s: float) -> bool:
        """Takes that none listens under its name. Returns whether it is gone."""
        return now_s - self._absent_since.setdefault(worker, now_s) >= ABSENT_S

    def handle_silence(self, worker: DecodeWorker, asked_at: float, now_s: float, *, others: bool) -> bool:
        """Takes that no answer came. Returns whether it is given up. `others`: whether another worker of its model is there."""
        self._absent_since.pop(worker, None)
        if now_s - asked_at > STOOD_STILL_S:
            self._heard_at[worker] = now_s
        return others and now_s - self._heard_at.setdefault(worker, asked_at) >= self.patience_with(worker).silent_s
