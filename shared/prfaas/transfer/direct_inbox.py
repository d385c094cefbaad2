"""Inbox of a decode worker's process, to which prefill workers of its site send small KV: frames in messages, past the object.

One subscription serves all transfers, so that a small one costs no call of the server's API."""

import contextlib
import secrets
from collections.abc import Callable

from prfaas.bus.bulk.interest import Handler
from prfaas.bus.bulk.lane import BulkLane
from prfaas.bus.bulk.wire import LaneError, Message
from prfaas.contracts import subjects, wire
from prfaas.contracts.kv import KVStored
from prfaas.telemetry.faults import FAULTS

MAX_DIRECT_BYTES = 8 << 20
"""Largest KV that is sent so: it leaves when all of it is computed, and nothing holds it back but this bound."""
MAX_INBOX_BYTES = 32 << 20
"""Largest KV of all transfers of one inbox: half of what a server keeps for a slow client before it cuts it off."""


class DirectInbox:
    """Belongs to the loop's thread."""

    def __init__(self, lane: BulkLane, bucket: str, *, max_bytes: int = MAX_INBOX_BYTES) -> None:
        self.name = secrets.token_hex(8)
        self._lane = lane
        self._max_bytes = max_bytes
        self.promised_bytes = 0
        """KV of the transfers that may come."""
        self._places: dict[str, int] = {}
        self._handlers: dict[str, Handler] = {}
        self._sid = lane.subscribe(subjects.kv_direct(bucket, self.name, "*"), self._on_message)

    def close(self) -> None:
        self._lane.unsubscribe(self._sid)

    def reserve(self, nuid: str, size_bytes: int) -> bool:
        """Keeps room for an object's KV until `release`. Returns False when it is too large, or there is no room."""
        if size_bytes > MAX_DIRECT_BYTES or self.promised_bytes + size_bytes > self._max_bytes:
            return False
        self._places[nuid] = size_bytes
        self.promised_bytes += size_bytes
        return True

    def take(self, nuid: str, handler: Callable[[Message], None]) -> None:
        """Hands the object's messages on; `handler` must release them, and answer."""
        assert nuid in self._places, "room is reserved first"
        self._handlers[nuid] = handler

    def release(self, nuid: str) -> None:
        self._handlers.pop(nuid, None)
        self.promised_bytes -= self._places.pop(nuid, 0)

    def answer(self, reply: str, frames: int) -> None:
        """Tells a sender how many frames are verified; 0: none are taken any more."""
        payload = wire.encode(KVStored(frames=frames, stream_sequence=0))
        with contextlib.suppress(LaneError):  # the sender sends again, and is told then
            self._lane.publish(reply, [payload], len(payload))

    def _on_message(self, message: Message) -> None:
        nuid = message.subject.rpartition(".")[2]
        handler = self._handlers.get(nuid)
        if handler is not None:
            handler(message)
            return
        reply = message.reply
        message.release()
        if nuid not in self._places:  # else its receiver is about to be there, and the sender sends again
            FAULTS.late["frame"] += 1
            if reply:
                self.answer(reply, 0)
