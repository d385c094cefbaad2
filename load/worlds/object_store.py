"""Model of the pd site's KV buckets: fast ingest with gap=fail, consumers in stream order, purges.

The rules of a batch are those of tests/transfer/broker_model.py, written from the server's source."""

import random
from collections.abc import Callable
from typing import Any, NamedTuple

from load.worlds.clockwork import Clockwork, Process
from load.worlds.network import NO_RESPONDERS_S, Network
from load.worlds.plan import HOME
from prfaas.transfer import sender_events as events
from prfaas.transfer.bucket_keeper_core import BucketState
from prfaas.transfer.object_consumer import INACTIVE_S
from prfaas.transfer.sender_core import NO_RESPONDERS, UNKNOWN_BATCH, WRONG_LAST_SEQUENCE

MAXIMUM_BYTES = 10077
FORGOTTEN_AFTER_S = 10.0
"""Silence after which the server forgets a batch."""

Reply = tuple[Callable[..., events.SenderEvent], tuple[Any, ...]]


class Batch(NamedTuple):
    frames: int
    last_sequence: int
    heard_at_s: float


class StoredObject:
    def __init__(self) -> None:
        self.frames: list[tuple[int, bytes]] = []
        """(stream sequence, frame)"""
        self.author = ""
        """Sender of the first of these frames."""
        self.batches: dict[tuple[str, int], Batch] = {}

    @property
    def last_sequence(self) -> int:
        return self.frames[-1][0] if self.frames else 0


class Consumer:
    """Reads one object from a sequence on, for one receiver."""

    def __init__(self, process: Process, nuid: str, next_sequence: int, deliver: Callable[[int, bytes], None]) -> None:
        self.process = process
        self.nuid = nuid
        self.next_sequence = next_sequence
        self.deliver = deliver
        self.exists = True


class ObjectStore:
    """Memory of the server: a restart loses it."""

    def __init__(self, clockwork: Clockwork, network: Network, chance: random.Random, violations: list[str]) -> None:
        self._violations = violations
        self._clockwork = clockwork
        self._chance = chance
        self._network = network
        self._objects: dict[str, StoredObject] = {}
        self.consumers: list[Consumer] = []
        self._sequence = 0
        self.full = False
        self.flip_stored = 0
        """Frames that are stored damaged from now on."""
        self.flip_delivered = 0

    @property
    def available(self) -> bool:
        return HOME not in self._network.server_down

    @property
    def last_sequence(self) -> int:
        return self._sequence

    # ---- the sender's side, over its own server and the link

    def publish(
        self,
        sender: Process,
        nuid: str,
        salt: str,
        order: events.SendFrame | events.SendPing | None,
        data: bytes,
        on_reply: Callable[[Reply], None],
    ) -> None:
        """Publishes a frame, a ping, or (`order` None) a frame that no batch counts."""
        if not sender.connected:
            return
        link = self._network.link_between(sender.site, HOME)
        if link is not None and link.cut and not link.silent:
            if order is not None:
                refusal = events.Refused, (order.batch, NO_RESPONDERS, "no stream takes the object")
                sender.call_later(NO_RESPONDERS_S, on_reply, refusal)
            return
        channel = (sender, "lane")
        self._network.carry(channel, sender, sender.site, HOME, self._published, sender, nuid, salt, order, data, on_reply)

    def _published(
        self,
        sender: Process,
        nuid: str,
        salt: str,
        order: events.SendFrame | events.SendPing | None,
        data: bytes,
        on_reply: Callable[[Reply], None],
    ) -> None:
        if order is None:
            if not self.full:
                self._store(nuid, salt, data)
            return
        reply = self._ping(nuid, salt, order) if isinstance(order, events.SendPing) else self._frame(nuid, salt, order, data)
        self._network.carry((self, sender), None, HOME, sender.site, self._reply, sender, on_reply, reply)

    def _reply(self, sender: Process, on_reply: Callable[[Reply], None], reply: Reply) -> None:
        if sender.connected:
            sender.call_now(on_reply, reply)

    def _batch(self, stored: StoredObject, salt: str, batch: int) -> Batch | None:
        found = stored.batches.get((salt, batch))
        if found is not None and self._clockwork.now_s - found.heard_at_s > FORGOTTEN_AFTER_S:
            del stored.batches[salt, batch]
            return None
        return found

    def _frame(self, nuid: str, salt: str, order: events.SendFrame, data: bytes) -> Reply:
        stored = self._objects.setdefault(nuid, StoredObject())
        batch, sequence, key = order.batch, order.sequence, (salt, order.batch)
        found = self._batch(stored, salt, batch)
        if found is None:
            if sequence != 1:
                return events.Refused, (batch, UNKNOWN_BATCH, "batch publish ID unknown")
            if order.expected_last_sequence not in (None, stored.last_sequence):
                return events.Refused, (batch, WRONG_LAST_SEQUENCE, "wrong last sequence")
            found = Batch(0, 0, 0.0)
        if sequence != found.frames + 1:
            stored.batches.pop(key, None)
            return events.BatchEnded, (batch, found.frames, found.last_sequence)
        if self.full:
            return events.Refused, (batch, MAXIMUM_BYTES, "maximum bytes exceeded")
        last = self._store(nuid, salt, data)
        if order.commit:
            stored.batches.pop(key, None)
            return events.BatchEnded, (batch, sequence, last)
        stored.batches[key] = Batch(sequence, last, self._clockwork.now_s)
        return events.Acknowledged, (batch, sequence, False)

    def _ping(self, nuid: str, salt: str, ping: events.SendPing) -> Reply:
        stored = self._objects.setdefault(nuid, StoredObject())
        found = self._batch(stored, salt, ping.batch)
        if found is None:
            if ping.sequence != 1:
                return events.Refused, (ping.batch, UNKNOWN_BATCH, "batch publish ID unknown")
            return events.BatchEnded, (ping.batch, 0, 0)
        if ping.sequence > found.frames:
            del stored.batches[salt, ping.batch]
            return events.BatchEnded, (ping.batch, found.frames, found.last_sequence)
        stored.batches[salt, ping.batch] = found._replace(heard_at_s=self._clockwork.now_s)
        return events.Acknowledged, (ping.batch, found.frames, True)

    def _store(self, nuid: str, author: str, data: bytes) -> int:
        self._sequence += 1
        if self.flip_stored:
            self.flip_stored -= 1
            data = damaged(data, self._chance)
        stored = self._objects.setdefault(nuid, StoredObject())
        if not stored.frames:
            stored.author = author
        elif stored.author != author:
            self._violations.append(f"object {nuid} has frames of {stored.author} and {author}")
        stored.frames.append((self._sequence, data))
        for consumer in self.consumers:
            if consumer.nuid == nuid:
                self._feed(consumer)
        return self._sequence

    # ---- the receiver's side, within the site

    def read(self, process: Process, nuid: str, start_sequence: int, deliver: Callable[[int, bytes], None]) -> Consumer:
        consumer = Consumer(process, nuid, start_sequence, deliver)
        self.consumers.append(consumer)
        self._feed(consumer)
        return consumer

    def delete_consumer(self, consumer: Consumer) -> None:
        if consumer.exists:
            consumer.exists = False
            self.consumers.remove(consumer)

    def last_frame(self, nuid: str) -> tuple[int, bytes] | None:
        stored = self._objects.get(nuid)
        return stored.frames[-1] if stored and stored.frames else None

    def purge(self, nuid: str) -> int:
        """Removes the object's frames. Returns their number."""
        stored = self._objects.get(nuid)
        if stored is None:
            return 0
        count, stored.frames = len(stored.frames), []
        if not stored.batches:
            del self._objects[nuid]
        return count

    def look(self) -> BucketState:
        frames = {nuid: len(stored.frames) for nuid, stored in self._objects.items() if stored.frames}
        sizes = sum(len(data) for stored in self._objects.values() for _, data in stored.frames)
        receivers = frozenset(consumer.nuid for consumer in self.consumers)
        return BucketState(frames, {}, receivers, sum(frames.values()), sizes)

    def process_died(self, process: Process) -> None:
        """Drops the consumers of a dead process after INACTIVE_S."""
        for consumer in self.consumers:
            if consumer.process is process:
                self._clockwork.call_at(self._clockwork.now_s + INACTIVE_S, None, self.delete_consumer, consumer)

    def lose_memory(self) -> None:
        self._objects.clear()
        self._sequence = 0
        for consumer in list(self.consumers):
            self.delete_consumer(consumer)

    def _feed(self, consumer: Consumer) -> None:
        stored = self._objects.get(consumer.nuid)
        if stored is None:
            return
        fresh = [frame for frame in stored.frames if frame[0] >= consumer.next_sequence]
        for sequence, data in fresh:
            consumer.next_sequence = sequence + 1
            channel = (self, consumer.process, "frames")
            self._network.carry(channel, None, HOME, HOME, self._delivered, consumer, sequence, data, consumer.process.connection)

    def _delivered(self, consumer: Consumer, sequence: int, data: bytes, connection: int) -> None:
        process = consumer.process
        if not process.connected or process.connection != connection:
            return
        if self.flip_delivered:
            self.flip_delivered -= 1
            data = damaged(data, self._chance)
        process.call_now(consumer.deliver, sequence, data)


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Copy with one bit turned, of the header or of the payload."""
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
