"""The prefill side of one attempt: pieces from the engine's thread, frames to the bulk lane."""

import asyncio
import secrets
import threading
import time
from collections import deque
from typing import Self

import msgspec

from prfaas.bus.bulk.bucket import chunk_subject
from prfaas.bus.bulk.lane import Buffer, BulkLane
from prfaas.bus.bulk.wire import DisconnectedError, LaneError, Message, header_block
from prfaas.contracts import subjects, wire
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.kv import KVStored, KVTransfer
from prfaas.kvcache.layout import KVLayout, KVPiece
from prfaas.link.estimate import Sent
from prfaas.link.link import Link
from prfaas.telemetry.faults import FAULTS
from prfaas.transfer import frame as kv
from prfaas.transfer import sender_core as sender
from prfaas.transfer.errors import TransferError
from prfaas.transfer.framer import Framer
from prfaas.transfer.object_digest import ObjectDigest, publish_meta

_TICK_S = 0.25
_QUERY_TIMEOUT_S = 2.0
# Operations of fast ingest.
_START, _APPEND, _COMMIT, _PING = 0, 1, 2, 4


class WriterReport(msgspec.Struct, frozen=True, kw_only=True):
    bytes: int
    """As sent, with headers and manifest."""
    raw_bytes: int
    """Canonical KV bytes."""
    frames: int
    resent_frames: int
    lossy_frames: int
    """Of `frames`: sent in 8 bits."""
    seconds: float
    """From the first frame on the wire to the last acknowledgement."""
    blocked_s: float
    """How long `put` made the engine wait for the link."""
    object_complete: bool
    """Whether the object's meta message was stored; not when the reader was done with it sooner."""

    @property
    def goodput_bytes_per_s(self) -> float:
        return self.bytes / self.seconds if self.seconds > 0 else 0.0


class KVSender:
    """`put` belongs to the engine's thread, everything else to the event loop's."""

    def __init__(
        self,
        lane: BulkLane,
        transfer: KVTransfer,
        layout: KVLayout,
        *,
        deadline_s: float,
        link: Link,
        tenant: str = "",
        idle_timeout_s: float = 10.0,
        buffer_bytes: int = 64 << 20,
        object_digest: bool = True,
        lossless: bool = True,
        lossy: bool = False,
    ) -> None:
        now = time.monotonic()
        self._lane = lane
        self._transfer = transfer
        self._link = link
        self._core = sender.SenderCore(now=now, deadline=now + deadline_s, idle_timeout_s=idle_timeout_s)
        self._framer = Framer(
            transfer,
            layout,
            link.core,
            max_payload=lambda: lane.max_payload,
            ready=self._drain,
            codecs=[kv.Codec.PLANES] * lossless + [kv.Codec.INT8] * (lossy and transfer.lossy),
            buffer_bytes=buffer_bytes,
            deadline=now + deadline_s,
        )
        self._loop_thread = threading.get_ident()
        self._subject = chunk_subject(transfer.bucket, transfer.nuid)
        self._batch_salt = secrets.token_hex(6)
        self._committed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._closing = False
        self._frames: deque[kv.OutgoingFrame] = deque()
        """From the first that is not acknowledged on."""
        self._sent: deque[Sent] = deque()
        """Of the frames on the way, in order."""
        self._sent_once = 0
        self._first_sent_at: float | None = None
        self._freeing = threading.Lock()
        self._freed = self._hashed = self._released = 0
        self._object_digest = ObjectDigest(self._on_hashed) if object_digest else None
        self._inbox = lane.open_inbox(self._on_reply, self._on_reply_failed)
        lane.add_listener(self)
        self._key = link.join(self, tenant)
        self._ticker = asyncio.create_task(self._tick(), name=f"kv writer {transfer.object_name}")
        self._query: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        lane: BulkLane,
        transfer: KVTransfer,
        layout: KVLayout,
        *,
        deadline_s: float,
        link: Link,
        tenant: str = "",
        idle_timeout_s: float = 10.0,
        buffer_bytes: int = 64 << 20,
        object_digest: bool = True,
        lossless: bool = True,
        lossy: bool = False,
    ) -> Self:
        """`deadline_s` bounds the whole transfer, `idle_timeout_s` a standstill of the link, `buffer_bytes` what `put` may run
        ahead of it. Tenants share `link` evenly, and so do the transfers of one. Without `object_digest` the frames never become
        an object that other clients can read, and the sender saves a SHA-256 over all bytes. `lossless` frames are compressed
        while the link is slow enough for it to pay; `lossy` ones are cut to 8 bits then, if the transfer allows it too. Sends the
        opening frame at once, so that a mismatch shows before anything is computed."""
        writer = cls(
            lane,
            transfer,
            layout,
            deadline_s=deadline_s,
            link=link,
            tenant=tenant,
            idle_timeout_s=idle_timeout_s,
            buffer_bytes=buffer_bytes,
            object_digest=object_digest,
            lossless=lossless,
            lossy=lossy,
        )
        writer._framer.put_opening()
        return writer

    def put(self, piece: KVPiece) -> None:
        """Cuts, checksums and queues a piece without copying it: its buffers must not change any more.

        Blocks while the link is behind by more than `buffer_bytes`. Raises TransferError when the attempt is dead, ValueError
        for a piece that is not what the layout says."""
        assert threading.get_ident() != self._loop_thread, "put() blocks: not on the loop's thread"
        self._framer.put(piece)

    async def close(self, *, cached_tokens: int = 0) -> WriterReport:
        """Sends the manifest, which tells how many tokens the prefill took from its cache, and returns when everything is
        stored. Raises TransferError."""
        try:
            self._closing = True
            await self._framer.put_manifest(cached_tokens)
            last_sequence = await asyncio.shield(self._committed)
            committed_at = time.monotonic()
            self._leave_link()
            complete = self._object_digest is not None and await publish_meta(
                self._lane,
                self._transfer,
                size_bytes=self._framer.total_bytes,
                chunks=self._framer.frames,
                sha256=await asyncio.to_thread(self._object_digest.result),
                last_sequence=last_sequence,
            )
        finally:
            await self._shut()
        return WriterReport(
            bytes=self._framer.total_bytes,
            raw_bytes=self._framer.raw_bytes,
            frames=self._framer.frames,
            resent_frames=self._core.resent_frames,
            lossy_frames=self._framer.lossy_frames,
            seconds=committed_at - (self._first_sent_at or committed_at),
            blocked_s=self.blocked_s,
            object_complete=complete,
        )

    async def abort(self, reason: str) -> None:
        """Ends the attempt from our side and tells the reader, as far as the link allows."""
        self._handle(sender.AbortAsked(reason))
        await self._shut()

    @property
    def blocked_s(self) -> float:
        """How long `put` has made the engine wait for the link so far."""
        return self._framer.blocked_s

    @property
    def stored_frames(self) -> int:
        """Acknowledged by the decode site's server so far."""
        return self._core.acked

    # What the link and the lane call.

    @property
    def can_write(self) -> bool:
        return self._lane.is_writable

    @property
    def waiting_bytes(self) -> int:
        return max(0, self._framer.held_bytes - self._core.outstanding_bytes)

    def send_next(self, sent: Sent) -> None:
        self._sent.append(sent)
        self._obey(sender.SendPermitted(sent.at))

    def connected(self) -> None:
        self._handle(sender.Connected(time.monotonic()))

    def disconnected(self) -> None:
        self._handle(sender.Disconnected(time.monotonic()))

    def writable(self) -> None:
        self._link.pump()

    def server_error(self, text: str) -> None:
        if self._subject.lower() in text.lower():
            self._handle(sender.Refused(self._core.batch, 0, text, time.monotonic()))

    # The state machine's shell.

    def _drain(self) -> None:
        frames = self._framer.take()
        for frame in frames:
            self._frames.append(frame)
            self._core.handle(sender.FrameQueued(frame.total_bytes, frame.kind is kv.FrameKind.MANIFEST))
        self._offer()
        self._link.pump()
        if self._object_digest is not None:
            # Only now: nobody waits for the digest, and its thread would take processor time from what must leave.
            for frame in frames:
                self._object_digest.update(frame)

    def _handle(self, event: sender.SenderEvent) -> None:
        self._obey(event)
        self._link.pump()

    def _obey(self, event: sender.SenderEvent) -> None:
        for instruction in self._core.handle(event):
            self._execute(instruction)
        self._offer()

    def _offer(self) -> None:
        if self._key:
            core = self._core
            self._link.core.offer(self._key, core.next_bytes, core.outstanding_bytes, urgent=self._closing)

    def _execute(self, instruction: sender.SenderInstruction) -> None:
        match instruction:
            case sender.SendFrame():
                self._send(instruction)
            case sender.Release(before):
                self._release(before)
            case sender.SendPing(batch, sequence):
                self._publish([], 0, self._reply(batch, sequence, _PING))
            case sender.Rewound():
                self._sent.clear()
            case sender.QueryStored():
                if self._query is None or self._query.done():
                    self._query = asyncio.create_task(self._ask_what_is_stored())
            case sender.Committed(stream_sequence):
                self._committed.set_result(stream_sequence)
            case sender.Failed(code, message):
                self._fail(TransferError(code, message))

    def _send(self, order: sender.SendFrame) -> None:
        frame = self._frames[order.position - self._released]
        operation = _COMMIT if order.commit else _START if order.sequence == 1 else _APPEND
        headers = b""
        if order.expected_last_sequence is not None:
            headers = header_block({"Nats-Expected-Last-Subject-Sequence": str(order.expected_last_sequence)})
        if order.position == self._sent_once:
            self._sent_once += 1
            self._framer.sent(frame.total_bytes)
        if self._first_sent_at is None:
            self._first_sent_at = time.monotonic()
        self._publish(frame.buffers, frame.total_bytes, self._reply(order.batch, order.sequence, operation), headers)

    def _publish(self, parts: list[Buffer], size: int, reply: str, headers: bytes = b"") -> None:
        try:
            self._lane.publish(self._subject, parts, size, reply=reply, headers=headers)
        except DisconnectedError:
            pass  # The lane tells us when it is back; until then the core only counts the time.
        except LaneError as error:
            refused = sender.Refused(self._core.batch, 0, str(error), time.monotonic())
            asyncio.get_running_loop().call_soon(self._handle, refused)

    def _reply(self, batch: int, sequence: int, operation: int) -> str:
        # <inbox>.<batch id>.<acknowledge every n messages>.<gap mode>.<sequence>.<operation>.$FI
        # Every message: a ping only repeats the last acknowledgement, so with a coarser rhythm a small window would stall.
        return f"{self._inbox}.{self._batch_salt}{batch}.1.fail.{sequence}.{operation}.$FI"

    def _on_reply(self, message: Message) -> None:
        now = time.monotonic()
        try:
            batch_id, _, _, _, operation, _ = message.subject[len(self._inbox) + 1 :].split(".")
            batch = int(batch_id[len(self._batch_salt) :])
        except ValueError:
            # An answer to nothing that was sent from here.
            FAULTS.undecodable["ingest"] += 1
            message.release()
            return
        if message.status == 503:
            text = f"nobody takes {self._subject}: the link is down or the bucket {self._transfer.bucket} is gone"
            self._handle(sender.Refused(batch, 503, text, now))
            return
        try:
            answer = wire.decode_json(message.payload, _Reply)
        except wire.BadMessageError:
            FAULTS.undecodable["ingest"] += 1
            return
        finally:
            message.release()
        if answer.type == "ack":
            self._handle(sender.Acknowledged(batch, answer.seq, operation == str(_PING), now))
        elif answer.error is not None:
            self._handle(sender.Refused(batch, answer.error.err_code, answer.error.description, now))
        elif answer.count is not None:
            self._handle(sender.BatchEnded(batch, answer.count, answer.seq, now))
        # A "gap" only announces the batch's end, whose exact count follows.

    def _on_reply_failed(self, error: Exception) -> None:
        """Ends this attempt: without its inbox it would wait for its deadline."""
        self._fail(TransferError(FailureCode.BROKER, f"an answer of the server could not be handled: {error!r}"))

    def _release(self, before: int) -> None:
        now = time.monotonic()
        for _ in range(self._released, before):
            self._frames.popleft()
            if self._sent:
                self._link.core.delivered(self._sent.popleft(), now)
        self._released = before
        self._free()

    def _on_hashed(self, frames: int) -> None:
        """On the digest's thread."""
        self._hashed = frames
        self._free()

    def _free(self) -> None:
        """What is both stored and hashed makes room for more."""
        with self._freeing:
            done = self._released if self._object_digest is None else min(self._released, self._hashed)
            if done > self._freed:
                self._framer.freed(done - self._freed)
                self._freed = done

    def _fail(self, error: TransferError) -> None:
        self._framer.fail(error)
        if self._core.acked:
            # Only an object that is ours for certain. Best effort: the reader has its own deadlines.
            frame = self._framer.abort_frame(str(error))
            self._publish(frame.buffers, frame.total_bytes, "")
        if not self._committed.done():
            self._committed.set_exception(error)
            self._committed.exception()

    async def _ask_what_is_stored(self) -> None:
        subject = subjects.kv_stored(self._transfer.bucket.removeprefix("kv-"), self._transfer.nuid)
        try:
            answer = await self._lane.request(subject, deadline_s=_QUERY_TIMEOUT_S)
            if answer.status:
                return  # No reader, or no link: the next tick asks again, until the deadline.
            stored = wire.decode(bytes(answer.payload), KVStored)
        except (LaneError, TimeoutError, wire.BadMessageError):
            return
        self._handle(sender.StoredIs(stored.frames, stored.stream_sequence, time.monotonic()))

    async def _tick(self) -> None:
        while not self._core.finished:
            await asyncio.sleep(_TICK_S)
            self._handle(sender.Tick(time.monotonic()))

    def _leave_link(self) -> None:
        if self._key:
            key, self._key = self._key, 0
            self._link.leave(key)

    async def _shut(self) -> None:
        self._leave_link()
        self._lane.remove_listener(self)
        self._lane.close_inbox(self._inbox)
        tasks = [task for task in (self._ticker, self._query) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._framer.close()
        if self._object_digest is not None:
            self._object_digest.stop()
        self._frames.clear()
        self._sent.clear()


class _ReplyError(msgspec.Struct):
    err_code: int = 0
    description: str = ""


class _Reply(msgspec.Struct):
    """What fast ingest answers with: a flow acknowledgement, a gap, an error, or the acknowledgement that ends a batch."""

    type: str = ""
    seq: int = 0
    count: int | None = None
    error: _ReplyError | None = None
