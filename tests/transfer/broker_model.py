"""Model of nats-server's handling of an object's subject: fast ingest with gap=fail, the expected-last-sequence header,
and a consumer in stream order. Written from the server's source (server/stream.go of 2.15) and checked by the tests that run
against the real one."""

from typing import NamedTuple

from prfaas.transfer import sender_events as sender
from prfaas.transfer.sender_core import UNKNOWN_BATCH, WRONG_LAST_SEQUENCE


class Sent(NamedTuple):
    """A message on its way to the server: a frame, a ping or a query."""

    instruction: sender.SendFrame | sender.SendPing | sender.QueryStored
    data: bytes


class BrokerModel:
    def __init__(self) -> None:
        self.stored: list[tuple[int, bytes]] = []
        """(stream sequence, frame)"""
        self._sequence = 0
        self._batches: dict[int, tuple[int, int]] = {}
        """Number -> (frames stored of it, stream sequence of the last)."""

    @property
    def last_sequence(self) -> int:
        return self.stored[-1][0] if self.stored else 0

    def store(self, data: bytes) -> int:
        self._sequence += 1
        self.stored.append((self._sequence, data))
        return self._sequence

    def restart(self, *, keeps_messages: bool) -> None:
        self._batches.clear()
        if not keeps_messages:
            self.stored.clear()
            self._sequence = 0

    def take(self, sent: Sent, positions: dict[bytes, int], now: float) -> sender.SenderEvent | None:
        """The answer to one message, if the real server gives one."""
        match sent.instruction:
            case sender.SendFrame():
                return self._frame(sent.instruction, sent.data, now)
            case sender.SendPing(batch, sequence):
                return self._ping(batch, sequence, now)
            case sender.QueryStored():
                if not self.stored:
                    return sender.StoredIs(0, 0, now)
                position = positions.get(self.stored[-1][1])
                return None if position is None else sender.StoredIs(position + 1, self.last_sequence, now)

    def _frame(self, order: sender.SendFrame, data: bytes, now: float) -> sender.SenderEvent:
        batch, sequence = order.batch, order.sequence
        if batch not in self._batches:
            if sequence != 1:
                return sender.Refused(batch, UNKNOWN_BATCH, "batch publish ID unknown", now)
            if order.expected_last_sequence not in (None, self.last_sequence):
                return sender.Refused(batch, WRONG_LAST_SEQUENCE, "wrong last sequence", now)
            self._batches[batch] = (0, 0)
        count, last = self._batches[batch]
        if sequence != count + 1:
            del self._batches[batch]
            return sender.BatchEnded(batch, count, last, now)
        last = self.store(data)
        if order.commit:
            del self._batches[batch]
            return sender.BatchEnded(batch, sequence, last, now)
        self._batches[batch] = (sequence, last)
        return sender.Acknowledged(batch, sequence, False, now)

    def _ping(self, batch: int, sequence: int, now: float) -> sender.SenderEvent:
        if batch not in self._batches:
            if sequence != 1:
                return sender.Refused(batch, UNKNOWN_BATCH, "batch publish ID unknown", now)
            return sender.BatchEnded(batch, 0, 0, now)
        count, last = self._batches[batch]
        if sequence > count:
            del self._batches[batch]
            return sender.BatchEnded(batch, count, last, now)
        return sender.Acknowledged(batch, count, True, now)
