"""Inbox of a decode worker's process, to which prefill workers of its site send small KV: frames in messages, past the object.

One subscription serves all transfers, so that a small one costs no call of the server's API."""

import contextlib
import secrets
import time
from collections import OrderedDict

from prfaas.bus.bulk.interest import Handler
from prfaas.bus.bulk.lane import BulkLane
from prfaas.bus.bulk.wire import LaneError, Message
from prfaas.contracts import subjects, wire
from prfaas.contracts.kv import KVTaken
from prfaas.telemetry.faults import FAULTS
from prfaas.telemetry.logs import get_logger

MAX_DIRECT_BYTES = 8 << 20
"""Largest KV that is sent so: it leaves when all of it is computed, and nothing holds it back but this bound."""
MAX_INBOX_BYTES = 32 << 20
"""Largest KV of all transfers of one inbox: half of what a server keeps for a slow client before it cuts it off."""
MAX_REMEMBERED = 1024
"""Verified transfers that are known after their end: a sender whose answer was lost asks again."""
REST_S = 60.0
"""Time for which nothing is offered after the inbox has failed: each failure costs a prefill."""

_log = get_logger(__name__)


class DirectInbox:
    """Belongs to the loop's thread, and lives as long as its lane."""

    def __init__(self, lane: BulkLane, bucket: str, *, max_bytes: int = MAX_INBOX_BYTES) -> None:
        self.name = secrets.token_hex(8)
        self._lane = lane
        self._max_bytes = max_bytes
        self.promised_bytes = 0
        """KV of the transfers that may come."""
        self._places: dict[str, int] = {}
        self._handlers: dict[str, Handler] = {}
        self._verified: OrderedDict[str, None] = OrderedDict()
        self._rests_until_at = 0.0
        self._subject = subjects.kv_direct(bucket, self.name, "*")
        self._sid = lane.subscribe(self._subject, self._on_message)
        lane.add_listener(self)

    def close(self) -> None:
        self._lane.remove_listener(self)
        self._lane.unsubscribe(self._sid)

    def reserve(self, nuid: str, size_bytes: int) -> bool:
        """Keeps room for an object's KV until `release`. Returns False when it is too large, there is no room, or the inbox has
        failed lately."""
        if size_bytes > MAX_DIRECT_BYTES or self.promised_bytes + size_bytes > self._max_bytes:
            return False
        if time.monotonic() < self._rests_until_at:
            return False
        self._places[nuid] = size_bytes
        self.promised_bytes += size_bytes
        return True

    def rest(self, reason: str) -> None:
        """Offers nothing for a while: KV goes into objects meanwhile."""
        _log.warning("kv_inbox_rests", seconds=REST_S, reason=reason)
        self._rests_until_at = time.monotonic() + REST_S

    def take(self, nuid: str, handler: Handler) -> None:
        """Hands the object's messages on; `handler` must release them, and answer."""
        assert nuid in self._places, "room is reserved first"
        self._handlers[nuid] = handler

    def verified(self, nuid: str) -> None:
        self._verified[nuid] = None
        if len(self._verified) > MAX_REMEMBERED:
            self._verified.popitem(last=False)

    def release(self, nuid: str) -> None:
        self._handlers.pop(nuid, None)
        self.promised_bytes -= self._places.pop(nuid, 0)

    def answer(self, nuid: str, reply: str) -> None:
        """Tells a sender what became of its frames."""
        taken = KVTaken(verified=nuid in self._verified, incomplete=nuid in self._places and nuid not in self._verified)
        payload = wire.encode(taken)
        with contextlib.suppress(LaneError):  # it asks again
            self._lane.publish(reply, [payload], len(payload))

    # What the lane calls.

    def connected(self) -> None:
        pass

    def disconnected(self) -> None:
        pass

    def writable(self) -> None:
        pass

    def server_error(self, text: str) -> None:
        if self._subject.lower() in text.lower():
            self.rest(text)

    def _on_message(self, message: Message) -> None:
        """Never raises: that would end the subscription of all transfers."""
        nuid, reply, is_question = message.subject.rpartition(".")[2], message.reply, not message.payload
        try:
            handler = self._handlers.get(nuid)
            if handler is not None and not is_question:
                handler(message)
                return
            if reply and (is_question or nuid not in self._places):
                self.answer(nuid, reply)
            if not is_question and nuid not in self._places and nuid not in self._verified:
                FAULTS.late["frame"] += 1
        except Exception as error:
            FAULTS.failed["frame"] += 1
            _log.error("kv_message_failed", exc_info=error)
        finally:
            message.release()
