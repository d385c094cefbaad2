"""The receiving end of one attempt: the real ReceiverCore, with what KVReceiver does around it in the same order."""

import math
from collections.abc import Callable
from functools import partial

from load.worlds.clockwork import Future, Process, Task, Timer
from load.worlds.model import LAYOUT
from load.worlds.network import UnansweredError
from load.worlds.object_store import Consumer, ObjectStore
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.kv import KVStored, KVTransfer, TransferReport
from prfaas.kvcache.layout import KVPiece
from prfaas.transfer import frame as kv
from prfaas.transfer import receiver_events as events
from prfaas.transfer.errors import TransferError
from prfaas.transfer.receiver_core import ReceiverCore
from prfaas.transfer.sealed_frame import frames_of

API_S = 0.001
"""Round trip of a call of the site's own server."""
TICK_S = 0.25
RECONNECT_S = 3.0
REOPEN_PAUSE_S = 0.05
MAX_REOPEN_PAUSE_S = 1.0


class Receiver:
    def __init__(
        self,
        process: Process,
        store: ObjectStore,
        transfer: KVTransfer,
        install: Callable[[KVPiece], None],
        *,
        timeout_s: float,
        idle_timeout_s: float,
        secret: bytes | None,
    ) -> None:
        now_s = process.monotonic_s
        self._process = process
        self._store = store
        self.transfer = transfer
        self._install = install
        self._frames = frames_of(transfer, secret)
        self._timeout_s = timeout_s
        self._idle_timeout_s = idle_timeout_s
        self._deadline_at = now_s + timeout_s
        self.core = ReceiverCore(
            transfer, LAYOUT, now_s=now_s, deadline_at=now_s + timeout_s, idle_timeout_s=idle_timeout_s
        )  # fmt: skip
        self.done: Future[TransferReport] = Future()
        self._consumer: Consumer | None = None
        self._opening: Task | None = None
        self._ticker: Timer | None = None
        self._deaf_since: float | None = None
        self.closed = False

    async def open(self) -> None:
        """Raises TransferError."""
        until_at = self._process.monotonic_s + min(self._timeout_s, RECONNECT_S)
        while not self._reachable:
            if self._process.monotonic_s >= until_at:
                self.closed = True
                raise TransferError(FailureCode.BROKER, "cannot read from the bucket: no answer")
            await self._process.sleep(0.1)
        await self._process.sleep(API_S)
        self._read(0)
        self._tick_later()

    async def verified(self, timeout_s: float) -> TransferReport:
        """Raises TransferError."""
        if not await self._process.wait([self.done], timeout_s):
            raise TransferError(FailureCode.TIMEOUT, f"not complete after {timeout_s:g} s")
        return self.done.result()

    def report(self) -> TransferReport:
        return self.core.report()

    async def close(self) -> None:
        """Deletes consumer and object. What the server cannot be told now, the sweep finds."""
        if self.closed:
            return
        self.closed = True
        if self._ticker is not None:
            self._ticker.cancelled = True
        if self._opening is not None:
            self._opening.cancel()
        self.done.fail(TransferError(FailureCode.ABORTED, "the receiver was closed"))
        await self._process.sleep(API_S)
        if self._consumer is not None and self._reachable:
            self._store.delete_consumer(self._consumer)
        if self._reachable:
            self._store.purge(self.transfer.nuid)
        elif self._consumer is not None:
            self._store.process_died(self._process)

    def connection_restored(self) -> None:
        if not self.closed:
            self._handle(events.DeliveryLost(self._process.monotonic_s))

    def stored(self) -> KVStored:
        """Answers the sender's question, from the last frame itself. Raises UnansweredError."""
        found = self._store.last_frame(self.transfer.nuid)
        if found is None:
            return KVStored(frames=0, stream_sequence=0)
        try:
            return KVStored(frames=self._frames.decode(memoryview(found[1])).head.position + 1, stream_sequence=found[0])
        except kv.FrameError as error:
            raise UnansweredError from error

    @property
    def _reachable(self) -> bool:
        return self._process.connected and self._store.available

    def _read(self, start_sequence: int) -> None:
        if self._consumer is not None:
            self._store.delete_consumer(self._consumer)
        self._consumer = consumer = self._store.read(self._process, self.transfer.nuid, start_sequence, lambda *_: None)
        consumer.deliver = partial(self._on_frame, consumer)

    def _on_frame(self, consumer: Consumer, sequence: int, data: bytes) -> None:
        if self.done.done or consumer is not self._consumer:
            return
        now_s = self._process.monotonic_s
        try:
            event: events.ReceiverEvent = events.FrameArrived(self._frames.decode(memoryview(data)), sequence, now_s)
        except kv.FrameError as error:
            event = events.FrameDamaged(str(error), now_s)
        self._handle(event)

    def _handle(self, event: events.ReceiverEvent) -> None:
        for instruction in self.core.handle(event):
            match instruction:
                case events.Install(piece):
                    self._install(piece)
                case events.Rewind(stream_sequence):
                    self._reopen(stream_sequence)
                case events.Verified(report):
                    self.done.set(report)
                case events.Failed(code, message):
                    self.done.fail(TransferError(code, message))
        self.core.validate()

    def _reopen(self, start_sequence: int) -> None:
        if self._consumer is not None:
            self._consumer.deliver = lambda *_: None  # it is deleted once the server can be reached
        if self._opening is not None:
            self._opening.cancel()
        self._opening = self._process.spawn(self._reopen_consumer(start_sequence))

    async def _reopen_consumer(self, start_sequence: int) -> None:
        pause_s = REOPEN_PAUSE_S
        while not self.done.done:
            await self._process.sleep(API_S)
            if self._reachable:
                if start_sequence and self._store.last_sequence < start_sequence - 1:
                    self.done.fail(TransferError(FailureCode.BROKER, "the server has lost what was stored of this object"))
                else:
                    self._read(start_sequence)
                return
            await self._process.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_REOPEN_PAUSE_S)

    def _tick_later(self) -> None:
        """Ticks at the first multiple of TICK_S at which the core has something to say: other ticks change nothing."""
        now_s = self._process.monotonic_s
        due_at = min(self._deadline_at, max(self.core.last_frame_at, now_s) + self._idle_timeout_s)
        if self.core.frames:
            due_at = min(due_at, self.core.last_frame_at + self._idle_timeout_s)
        ticks = max(1, math.ceil((due_at - now_s) / TICK_S))
        self._ticker = self._process.call_later(min(ticks, 24) * TICK_S, self._tick)

    def _tick(self) -> None:
        if self.done.done:
            return
        now_s = self._process.monotonic_s
        self._handle(events.Tick(now_s))
        if self._process.connected and self._consumer is not None and not self._consumer.exists:
            self._handle(events.DeliveryLost(now_s))  # heartbeats of its pulls are missing
        self._tick_later()


async def settled(receiver: Receiver, timeout_s: float) -> tuple[TransferReport | None, TransferError | None]:
    """Turns an error into a result: a task whose error is not looked at would pass for a fault."""
    try:
        return await receiver.verified(timeout_s), None
    except TransferError as error:
        return None, error


async def opened(receiver: Receiver) -> TransferError | None:
    """Turns an error of `open` into a result, as `settled` does."""
    try:
        await receiver.open()
    except TransferError as error:
        return error
    return None
