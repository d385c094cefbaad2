"""The prefill side of one attempt: pieces from the engine's thread, frames to the bulk lane."""

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Self

from prfaas.bus.bulk.bucket import chunk_subject
from prfaas.bus.bulk.connection import Buffer
from prfaas.bus.bulk.lane import BulkLane
from prfaas.bus.bulk.wire import DisconnectedError, LaneError, Message, header_block
from prfaas.contracts import subjects, wire
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.kv import KVStored, KVTransfer
from prfaas.kvcache.layout import KVLayout, KVPiece
from prfaas.link.estimate import Sent
from prfaas.link.link import Link
from prfaas.telemetry.fault_points import FaultPoint, reach
from prfaas.transfer import sender_events as events
from prfaas.transfer.errors import TransferError
from prfaas.transfer.fast_ingest import BatchReplies, Operation
from prfaas.transfer.frame import Codec, FrameKind
from prfaas.transfer.frame_queue import FrameQueue
from prfaas.transfer.framer import Framer
from prfaas.transfer.object_digest import ObjectDigest, publish_meta
from prfaas.transfer.sealed_frame import frames_of
from prfaas.transfer.send_options import SendOptions, SendReport
from prfaas.transfer.sender_core import SenderCore

_TICK_S = 0.25
_QUERY_TIMEOUT_S = 2.0


class KVSender:
    """`put` belongs to the engine's thread, `finish` to any, everything else to the event loop's."""

    def __init__(self, lane: BulkLane, transfer: KVTransfer, layout: KVLayout, link: Link, options: SendOptions) -> None:
        now_s = time.monotonic()
        self._lane = lane
        self._transfer = transfer
        self._link = link
        self._options = options
        deadline_at = now_s + options.timeout_s
        self._core = SenderCore(now_s=now_s, deadline_at=deadline_at, idle_timeout_s=options.idle_timeout_s)
        self._framer = Framer(
            transfer,
            layout,
            link.core,
            frames_of(transfer, options.secret),
            max_payload=lambda: lane.max_payload,
            ready=self._drain,
            codecs=[Codec.PLANES] * options.lossless + [Codec.INT8] * (options.lossy and transfer.lossy),
            buffer_bytes=options.buffer_bytes,
            deadline_at=deadline_at,
        )
        self._queue = FrameQueue(self._framer, hashing=options.object_digest)
        self._object_digest = ObjectDigest(self._queue.on_hashed) if options.object_digest else None
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._subject = chunk_subject(transfer.bucket, transfer.nuid)
        self._inbox = lane.open_inbox(self._on_reply, subjects.kv_bucket_site(transfer.bucket), self._on_reply_failed)
        self._replies = BatchReplies(self._inbox)
        self._committed: asyncio.Future[int] = self._loop.create_future()
        self._closing = False
        self._first_sent_at: float | None = None
        self._key = 0
        """Key in the link; 0 while the sender is not one of its users."""
        self._ticker: asyncio.Task[None] | None = None
        self._query: asyncio.Task[None] | None = None

    def open(self) -> Self:
        """Joins the link and sends the opening frame at once, so that a mismatch shows before anything is computed."""
        self._lane.add_listener(self)
        self._key = self._link.join(self, self._options.tenant, background=self._options.background)
        self._ticker = asyncio.create_task(self._tick(), name=f"kv sender {self._transfer.object_name}")
        self._framer.put_opening()
        return self

    def put(self, piece: KVPiece) -> None:
        """Cuts, checksums and queues a piece without copying it: its buffers must not change any more.

        Blocks while the link is behind by more than `buffer_bytes`. Raises TransferError when the attempt is dead, ValueError
        for a piece that is not what the layout says."""
        assert threading.get_ident() != self._loop_thread, "put() blocks: not on the loop's thread"
        self._framer.put(piece)

    def finish(self, *, cached_tokens: int = 0) -> None:
        """Queues the manifest behind the last piece, from any thread and without waiting: it tells how many tokens the prefill
        took from its cache. Raises TransferError when the attempt is dead."""
        self._framer.put_manifest(cached_tokens)
        self._loop.call_soon_threadsafe(self._hurry)

    async def close(self) -> SendReport:
        """Returns when everything is stored, the manifest of `finish` included. Raises TransferError."""
        try:
            await self._framer.settled()
            last_sequence = await asyncio.shield(self._committed)
            committed_at = time.monotonic()
            # What remains costs no bandwidth: the link is for the others.
            self._leave_link()
            complete = self._object_digest is not None and await publish_meta(
                self._lane,
                self._transfer,
                size_bytes=self._framer.total_bytes,
                chunks=self._framer.frames,
                sha256=await self._object_digest.result(),
                last_sequence=last_sequence,
            )
        finally:
            await self._shut()
        return SendReport(
            bytes=self._framer.total_bytes,
            raw_bytes=self._framer.raw_bytes,
            frames=self._framer.frames,
            resent_frames=self._core.resent_frames,
            lossy_frames=self._framer.lossy_frames,
            duration_s=committed_at - (self._first_sent_at or committed_at),
            blocked_s=self.blocked_s,
            object_complete=complete,
        )

    async def abort(self, reason: str) -> None:
        """Ends the attempt from our side and tells the receiver, as far as the link allows."""
        self._handle(events.AbortAsked(reason))
        await self._shut()

    @property
    def blocked_s(self) -> float:
        """Time for which `put` has made the engine wait for the link so far."""
        return self._framer.blocked_s

    @property
    def stored_frames(self) -> int:
        """Frames acknowledged by the decode site's server so far."""
        return self._core.acked

    # What the link and the lane call.

    @property
    def can_write(self) -> bool:
        return self._lane.is_writable

    @property
    def waiting_bytes(self) -> int:
        return max(0, self._framer.held_bytes - self._core.outstanding_bytes)

    def send_next(self, sent: Sent) -> None:
        self._queue.mark(sent)
        self._obey(events.SendPermitted(sent.at))

    def connected(self) -> None:
        self._handle(events.Connected(time.monotonic()))

    def disconnected(self) -> None:
        self._handle(events.Disconnected(time.monotonic()))

    def writable(self) -> None:
        self._link.pump()

    def server_error(self, text: str) -> None:
        if self._subject.lower() in text.lower():
            self._handle(events.Refused(self._core.batch, 0, text, time.monotonic()))

    # The state machine's shell.

    def _drain(self) -> None:
        frames = self._framer.take()
        for frame in frames:
            self._queue.append(frame)
            self._core.handle(events.FrameQueued(frame.total_bytes, frame.kind is FrameKind.MANIFEST))
        self._offer()
        self._link.pump()
        if self._object_digest is not None:
            # Only now: nothing waits for the digest, and its thread would take processor time from what must leave.
            for frame in frames:
                self._object_digest.update(frame)

    def _hurry(self) -> None:
        """Makes this transfer urgent: all of it is computed, and the decode waits for what is left."""
        self._closing = True
        self._offer()
        self._link.pump()

    def _on_reply(self, message: Message) -> None:
        event = self._replies.event(message, time.monotonic())
        if event is not None:
            self._handle(event)

    def _on_reply_failed(self, error: Exception) -> None:
        """Ends this attempt: without its inbox it would wait for its deadline."""
        self._fail(TransferError(FailureCode.BROKER, f"an answer of the server could not be handled: {error!r}"))

    def _handle(self, event: events.SenderEvent) -> None:
        self._obey(event)
        self._link.pump()

    def _obey(self, event: events.SenderEvent) -> None:
        for instruction in self._core.handle(event):
            self._execute(instruction)
        self._offer()

    def _offer(self) -> None:
        if self._key:
            core = self._core
            self._link.core.offer(self._key, core.next_bytes, core.outstanding_bytes, urgent=self._closing)

    def _execute(self, instruction: events.SenderInstruction) -> None:
        match instruction:
            case events.SendFrame():
                self._send(instruction)
            case events.Release(before):
                now_s = time.monotonic()
                for sent in self._queue.store(before):
                    self._link.core.delivered(sent, now_s)
            case events.SendPing(batch, sequence):
                self._publish([], 0, self._replies.subject(batch, sequence, Operation.PING))
            case events.Rewound():
                self._queue.rewind()
            case events.QueryStored():
                if self._query is None or self._query.done():
                    self._query = asyncio.create_task(self._ask_what_is_stored())
            case events.Committed(stream_sequence):
                self._committed.set_result(stream_sequence)
            case events.Failed(code, message):
                self._fail(TransferError(code, message))

    def _send(self, order: events.SendFrame) -> None:
        reach(FaultPoint.MANIFEST if order.commit else FaultPoint.FRAME, self._transfer.transfer_id, order.position)
        frame = self._queue.send(order.position)
        operation = Operation.APPEND
        if order.commit:
            operation = Operation.COMMIT
        elif order.sequence == 1:
            operation = Operation.START
        headers = b""
        if order.expected_last_sequence is not None:
            headers = header_block({"Nats-Expected-Last-Subject-Sequence": str(order.expected_last_sequence)})
        if self._first_sent_at is None:
            self._first_sent_at = time.monotonic()
        reply = self._replies.subject(order.batch, order.sequence, operation)
        self._publish(frame.buffers, frame.total_bytes, reply, headers)

    def _publish(self, parts: Sequence[Buffer], size: int, reply: str, headers: bytes = b"") -> None:
        try:
            self._lane.publish(self._subject, parts, size, reply=reply, headers=headers)
        except DisconnectedError:
            pass  # The lane tells us when it is back; until then the core only counts the time.
        except LaneError as error:
            # Not at once: the core is in the middle of an event.
            refused = events.Refused(self._core.batch, 0, str(error), time.monotonic())
            self._loop.call_soon(self._handle, refused)

    def _fail(self, error: TransferError) -> None:
        self._framer.fail(error)
        if self._core.acked:
            # Only an object that is ours for certain. Best effort: the receiver has its own deadlines.
            frame = self._framer.abort_frame(str(error))
            self._publish(frame.buffers, frame.total_bytes, "")
        if not self._committed.done():
            self._committed.set_exception(error)
            self._committed.exception()

    async def _ask_what_is_stored(self) -> None:
        subject = subjects.kv_stored(self._transfer.bucket, self._transfer.nuid)
        try:
            answer = await self._lane.request(subject, timeout_s=_QUERY_TIMEOUT_S)
            if answer.status:
                return  # No receiver, or no link: the next tick asks again, until the deadline.
            stored = wire.decode(bytes(answer.payload), KVStored)
        except (LaneError, TimeoutError, wire.BadMessageError):
            return
        self._handle(events.StoredIs(stored.frames, stored.stream_sequence, time.monotonic()))

    async def _tick(self) -> None:
        while not self._core.finished:
            await asyncio.sleep(_TICK_S)
            self._handle(events.Tick(time.monotonic()))

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
        self._queue.clear()
