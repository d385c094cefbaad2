"""Events that were sent to gateways, kept for a while: NATS loses what is under way when a connection breaks. Pure."""

from collections import OrderedDict, deque
from typing import Final

from prfaas.contracts.to_gateway import Tokens
from prfaas_decode_worker.events import Emit

KEPT_EVENTS: Final = 512
"""Latest events that are kept of one request. A connection that breaks takes those of the last seconds with it."""
MOST_ENTRIES = 65_536
"""Entries that are kept of all requests: one for each event, and one for each log-probability in it, which takes as much memory.
Those of requests that have ended go first."""
KEPT_AFTER_END_S: Final = 20.0
"""Time for which a request's events are kept after its end. A gateway notices a connection that stands still within 15 s."""


class SentEvents:
    def __init__(self) -> None:
        self._events: OrderedDict[str, deque[Emit]] = OrderedDict()
        """Latest events by request, in the order of sequence."""
        self._ended_at: OrderedDict[str, float] = OrderedDict()
        """Moments at which requests ended, the oldest first."""
        self._entries = 0

    def keep(self, emit: Emit, now_s: float) -> None:
        request_id = emit.event.request_id
        if emit.event.sequence == 0:  # an id that is used again is another request
            self._forget(request_id)
        events = self._events.setdefault(request_id, deque())
        events.append(emit)
        self._entries += _entries(emit)
        if len(events) > KEPT_EVENTS:
            self._entries -= _entries(events.popleft())
        self._forget_old(now_s)

    def end(self, request_id: str, now_s: float) -> None:
        """Takes that no event of a request will follow."""
        if request_id in self._events:
            self._ended_at[request_id] = now_s
        self._forget_old(now_s)

    def since(self, request_id: str, sequence: int, reply_to: str) -> list[Emit]:
        """Returns a request's events from number `sequence` on; none where one of them is not kept, or went to another subject
        than `reply_to`."""
        found = [emit for emit in self._events.get(request_id, ()) if emit.event.sequence >= sequence]
        complete = bool(found) and found[0].event.sequence == sequence
        return found if complete and all(emit.reply_to == reply_to for emit in found) else []

    def validate(self) -> None:
        kept = [emit for events in self._events.values() for emit in events]
        assert self._entries == sum(map(_entries, kept)) <= MOST_ENTRIES
        assert self._ended_at.keys() <= self._events.keys()
        for events in self._events.values():
            assert 0 < len(events) <= KEPT_EVENTS
            first = events[0].event.sequence
            assert [emit.event.sequence for emit in events] == list(range(first, first + len(events)))

    def _forget_old(self, now_s: float) -> None:
        while self._ended_at:
            request_id, ended_at = next(iter(self._ended_at.items()))
            if now_s - ended_at < KEPT_AFTER_END_S and self._entries <= MOST_ENTRIES:
                break
            self._forget(request_id)
        while self._entries > MOST_ENTRIES:
            self._forget(next(iter(self._events)))

    def _forget(self, request_id: str) -> None:
        self._ended_at.pop(request_id, None)
        self._entries -= sum(map(_entries, self._events.pop(request_id, ())))


def _entries(emit: Emit) -> int:
    if isinstance(emit.event, Tokens) and emit.event.details:
        return 1 + sum(1 + len(detail.top) for detail in emit.event.details)
    return 1
