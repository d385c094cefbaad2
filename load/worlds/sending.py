"""The sending end of one attempt: the real SenderCore, FrameQueue, LinkCore and frames, as KVSender and Link use them."""

from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from load.worlds.clockwork import Future, Process
from load.worlds.model import FINGERPRINT, LAYOUT, MAX_PAYLOAD_BYTES
from load.worlds.object_store import ObjectStore, Reply
from prfaas.bus.errors import BusError
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.kv import KVStored, KVTransfer
from prfaas.kvcache.layout import KVPiece
from prfaas.link.config import LinkConfig
from prfaas.link.estimate import Sent
from prfaas.link.link_core import LinkCore
from prfaas.transfer import frame as kv
from prfaas.transfer import sender_events as events
from prfaas.transfer.errors import TransferError
from prfaas.transfer.frame_queue import FrameQueue
from prfaas.transfer.sealed_frame import frames_of
from prfaas.transfer.sender_core import SenderCore

TICK_S = 0.25
QUERY_TIMEOUT_S = 2.0


class SenderLink:
    """One link of a prefill worker: Link around the real LinkCore."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.core = LinkCore(LinkConfig(), now_s=process.monotonic_s)
        self.users: dict[int, Sender] = {}
        self._next_key = 0
        self._pumping = False

    def join(self, user: "Sender", tenant: str) -> int:
        self._next_key += 1
        self.users[self._next_key] = user
        self.core.join(self._next_key, tenant)
        return self._next_key

    def leave(self, key: int) -> None:
        self.users.pop(key, None)
        self.core.leave(key)
        self.pump()

    def pump(self) -> None:
        if self._pumping:
            return
        self._pumping = True
        try:
            while True:
                now_s = self._process.monotonic_s
                key = self.core.pick(now_s)
                if key is None or not self._process.connected:
                    break
                self.users[key].send_next(self.core.sent(key, now_s))
        finally:
            self._pumping = False


class _Memory:
    """Memory of frames, which is not bounded here."""

    def sent(self, size_bytes: int) -> None:
        pass

    def freed(self, frames: int) -> None:
        pass


class Sender:
    """Follows KVSender: frames in, instructions of the core out."""

    def __init__(
        self,
        process: Process,
        store: ObjectStore,
        transfer: KVTransfer,
        link: SenderLink,
        ask_stored: Callable[[], Coroutine[Any, Any, Any]],
        *,
        timeout_s: float,
        idle_timeout_s: float,
        tenant: str,
        salt: str,
        secret: bytes | None,
    ) -> None:
        now_s = process.monotonic_s
        self._process = process
        self._store = store
        self.transfer = transfer
        self._link = link
        self._ask_stored = ask_stored
        self._tenant = tenant
        self._salt = salt
        self._frames = frames_of(transfer, secret)
        self.core = SenderCore(now_s=now_s, deadline_at=now_s + timeout_s, idle_timeout_s=idle_timeout_s)
        self._queue = FrameQueue(_Memory(), hashing=False)
        self._hash = kv.transfer_hash(transfer.transfer_id)
        self._digests: list[bytes] = []
        self._raw_bytes = 0
        self.committed: Future[int] = Future()
        self._failure: TransferError | None = None
        self._key = 0
        self._closing = False
        self._asking = False
        self._shut = False

    # ---- what a job does with it

    def open(self) -> None:
        self._key = self._link.join(self, self._tenant)
        self._process.call_later(TICK_S, self._tick)
        transfer = self.transfer
        opening = kv.TransferOpening(
            transfer_id=transfer.transfer_id,
            attempt=transfer.attempt,
            prefill_tokens=transfer.prefill_tokens,
            from_token=transfer.from_token,
            fingerprint=FINGERPRINT,
            layout=LAYOUT,
        )
        self._append(kv.FrameKind.OPEN, kv.message_slice(msgspec.msgpack.encode(opening)))

    def put(self, piece: KVPiece) -> None:
        """Raises TransferError when the attempt is dead."""
        if self._failure is not None:
            raise self._failure
        for part in kv.cut_piece(LAYOUT, piece, MAX_PAYLOAD_BYTES):
            self._append(kv.FrameKind.DATA, part)

    def finish(self, *, cached_tokens: int) -> None:
        """Queues the manifest behind the last piece. Raises TransferError when the attempt is dead."""
        if self._failure is not None:
            raise self._failure
        self._closing = True
        manifest = kv.Manifest(
            frames=len(self._digests),
            raw_bytes=self._raw_bytes,
            cached_tokens=cached_tokens,
            fingerprint=FINGERPRINT,
            digest=kv.manifest_digest(self._digests),
        )
        self._append(kv.FrameKind.MANIFEST, kv.message_slice(msgspec.msgpack.encode(manifest)))

    async def close(self) -> None:
        """Returns when everything is stored. Raises TransferError."""
        try:
            await self.committed
        finally:
            self._end()

    def abort(self, reason: str) -> None:
        self._handle(events.AbortAsked(reason))
        self._end()

    # ---- what link and lane call

    def send_next(self, sent: Sent) -> None:
        self._queue.mark(sent)
        self._obey(events.SendPermitted(sent.at))

    def connection_lost(self) -> None:
        self._handle(events.Disconnected(self._process.monotonic_s))

    def connection_restored(self) -> None:
        self._handle(events.Connected(self._process.monotonic_s))

    # ---- the core's shell

    def _append(self, kind: kv.FrameKind, part: kv.FrameSlice) -> None:
        frame = self._encode(kind, part, len(self._digests))
        self._digests.append(frame.digest)
        self._raw_bytes += part.raw_bytes
        self._queue.append(frame)
        self.core.handle(events.FrameQueued(frame.total_bytes, kind is kv.FrameKind.MANIFEST))
        self._offer()
        self._link.pump()

    def _encode(self, kind: kv.FrameKind, part: kv.FrameSlice, position: int) -> kv.OutgoingFrame:
        stored = sum(len(view) for view in part.parts)
        head = kv.FrameHead(
            kind, kv.Codec.RAW, self.transfer.attempt, position, part.range, part.offset, stored, part.raw_bytes,
            self._hash,
        )  # fmt: skip
        return self._frames.encode(head, part.parts)

    def _on_reply(self, reply: Reply) -> None:
        if not self._shut:
            kind, arguments = reply
            self._handle(kind(*arguments, self._process.monotonic_s))

    def _handle(self, event: events.SenderEvent) -> None:
        self._obey(event)
        self._link.pump()

    def _obey(self, event: events.SenderEvent) -> None:
        for instruction in self.core.handle(event):
            self._execute(instruction)
        self.core.validate()
        self._offer()

    def _offer(self) -> None:
        if self._key:
            core = self.core
            self._link.core.offer(self._key, core.next_bytes, core.outstanding_bytes, urgent=self._closing)

    def _execute(self, instruction: events.SenderInstruction) -> None:
        match instruction:
            case events.SendFrame(position):
                frame = self._queue.send(position)
                self._publish(instruction, b"".join(frame.buffers))
            case events.Release(before):
                now_s = self._process.monotonic_s
                for sent in self._queue.store(before):
                    self._link.core.delivered(sent, now_s)
            case events.SendPing():
                self._publish(instruction, b"")
            case events.Rewound():
                self._queue.rewind()
            case events.QueryStored():
                if not self._asking:
                    self._process.spawn(self._ask_what_is_stored())
            case events.Committed(stream_sequence):
                self.committed.set(stream_sequence)
            case events.Failed(code, message):
                self._fail(TransferError(code, message))

    def _publish(self, order: events.SendFrame | events.SendPing | None, data: bytes) -> None:
        self._store.publish(self._process, self.transfer.nuid, self._salt, order, data, self._on_reply)

    def _fail(self, error: TransferError) -> None:
        self._failure = error
        if self.core.acked:
            frame = self._encode(kv.FrameKind.ABORT, kv.message_slice(str(error).encode()[:1000]), kv.ABORT_POSITION)
            self._publish(None, b"".join(frame.buffers))
        self.committed.fail(error)

    async def _ask_what_is_stored(self) -> None:
        self._asking = True
        try:
            stored = await self._ask_stored()
        except BusError:
            return
        finally:
            self._asking = False
        if isinstance(stored, KVStored) and not self._shut:
            self._handle(events.StoredIs(stored.frames, stored.stream_sequence, self._process.monotonic_s))

    def _tick(self) -> None:
        if not self.core.finished and not self._shut:
            self._handle(events.Tick(self._process.monotonic_s))
            self._process.call_later(TICK_S, self._tick)

    def _end(self) -> None:
        self._shut = True
        if self._key:
            key, self._key = self._key, 0
            self._link.leave(key)
        self._queue.clear()


def failure_of(error: Exception) -> FailureCode:
    """Returns the code of a tail that ended in `error`."""
    return error.code if isinstance(error, TransferError) else FailureCode.INTERNAL
