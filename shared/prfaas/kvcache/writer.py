"""The prefill side of one attempt: pieces from the engine's thread, frames to the bulk lane."""

import asyncio
import base64
import hashlib
import json
import queue
import secrets
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Self

import msgspec

from prfaas.bus.bulk.bucket import chunk_subject, direct_get_last, meta_subject
from prfaas.bus.bulk.lane import BulkLane
from prfaas.bus.bulk.wire import DisconnectedError, LaneError, Message, header_block
from prfaas.contracts.kv import KVTransfer
from prfaas.kvcache import frame as kv
from prfaas.kvcache import sender
from prfaas.kvcache.codec import CodecChooser, encode_planes
from prfaas.kvcache.errors import TransferCode, TransferError
from prfaas.kvcache.layout import KVLayout, KVPiece, LayerKind, LayerRange
from prfaas.kvcache.link import Link, Sent

_TICK_S = 0.25
_META_ATTEMPTS = 3
_META_TIMEOUT_S = 2.0
# Operations of fast ingest.
_START, _APPEND, _COMMIT, _PING = 0, 1, 2, 4


class WriterReport(msgspec.Struct, frozen=True, kw_only=True):
    bytes: int
    """As sent, with headers and manifest."""
    raw_bytes: int
    frames: int
    resent_frames: int
    seconds: float
    """From the first frame on the wire to the last acknowledgement."""
    blocked_s: float
    """How long `put` made the engine wait for the link."""
    object_complete: bool
    """Whether the object's meta message was stored; not when the reader was done with it sooner."""

    @property
    def goodput_bytes_per_s(self) -> float:
        return self.bytes / self.seconds if self.seconds > 0 else 0.0


class KVWriter:
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
    ) -> None:
        now = time.monotonic()
        self._lane = lane
        self._transfer = transfer
        self._layout = layout
        self._link = link
        self._deadline = now + deadline_s
        self._buffer_bytes = buffer_bytes
        self._core = sender.SenderCore(now=now, deadline=self._deadline, idle_timeout_s=idle_timeout_s)
        self._loop = asyncio.get_running_loop()
        self._subject = chunk_subject(transfer.bucket, transfer.nuid)
        self._hash = kv.transfer_hash(transfer.transfer_id)
        self._batch_salt = secrets.token_hex(6)
        self._committed: asyncio.Future[int] = self._loop.create_future()
        self._closing = False

        # Between the two threads, under the lock of `_room`.
        self._room = threading.Condition()
        self._incoming: list[kv.OutgoingFrame] = []
        self._held_bytes = 0
        self._wake_pending = False
        self._failure: TransferError | None = None

        self._chooser = CodecChooser() if lossless else None
        self._framer = ThreadPoolExecutor(1, "kv framer") if lossless else None
        """Frames pieces beside the engine, one window ahead of the link and no more: so the codec follows the link."""
        self._ahead_bytes = 0
        """Framed and never sent; under the lock."""
        self._next_position = 0
        self._frame_digests: list[bytes] = []
        self._raw_bytes = 0
        self._total_bytes = 0
        self._blocked_s = 0.0
        self._frames: deque[kv.OutgoingFrame] = deque()
        """From the first that is not acknowledged on."""
        self._released = 0
        self._hashed = 0
        self._freed = 0
        self._sizes: deque[int] = deque()
        """Of frames that still count against the buffer."""
        self._sent: dict[int, Sent] = {}
        self._sent_before = 0
        """Frames that were sent at least once."""
        self._first_sent_at: float | None = None
        self._object_digest = _ObjectDigest(self._on_hashed) if object_digest else None

        self._inbox = lane.open_inbox(self._on_reply)
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
    ) -> Self:
        """`deadline_s` bounds the whole transfer, `idle_timeout_s` a standstill of the link, `buffer_bytes` what `put` may
        run ahead of it. Without `object_digest` the frames never become an object that other clients can read, and the sender
        saves a SHA-256 over all bytes. `lossless` frames are compressed while the link is slow enough for it to pay. Sends the
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
        )
        opening = kv.TransferOpening(
            transfer_id=transfer.transfer_id,
            attempt=transfer.attempt,
            prefill_tokens=transfer.prefill_tokens,
            fingerprint=transfer.fingerprint,
            layout=layout,
        )
        writer._append_message(kv.FrameKind.OPEN, msgspec.msgpack.encode(opening))
        return writer

    def put(self, piece: KVPiece) -> None:
        """Cuts, checksums and queues a piece without copying it: its buffers must not change any more.

        Blocks while the link is behind by more than `buffer_bytes`. Raises TransferError when the attempt is dead, ValueError
        for a piece that is not what the layout says."""
        assert threading.current_thread() is not threading.main_thread() or not _on_loop(self._loop), (
            "put() blocks: not on the loop"
        )
        kv.check_piece(self._layout, piece)
        size = piece.keys.nbytes + piece.values.nbytes
        with self._room:
            self._wait_for_room(size)
            self._held_bytes += size
        if self._framer is None:
            self._frame_piece(piece)
        else:
            self._framer.submit(self._frame_piece, piece)

    async def close(self) -> WriterReport:
        """Sends the manifest and returns when everything is stored. Raises TransferError."""
        try:
            if self._framer is not None:
                await self._loop.run_in_executor(self._framer, self._raise_failure)
            manifest = kv.Manifest(
                frames=self._next_position,
                raw_bytes=self._raw_bytes,
                fingerprint=self._transfer.fingerprint,
                digest=kv.manifest_digest(self._frame_digests),
            )
            self._closing = True
            self._append_message(kv.FrameKind.MANIFEST, msgspec.msgpack.encode(manifest))
            last_sequence = await asyncio.shield(self._committed)
            committed_at = time.monotonic()
            self._leave_link()
            complete = self._object_digest is not None and await self._publish_meta(last_sequence, self._object_digest)
        finally:
            await self._shut()
        return WriterReport(
            bytes=self._total_bytes,
            raw_bytes=self._raw_bytes,
            frames=self._next_position,
            resent_frames=self._core.resent_frames,
            seconds=committed_at - (self._first_sent_at or committed_at),
            blocked_s=self._blocked_s,
            object_complete=complete,
        )

    async def abort(self, reason: str) -> None:
        """Ends the attempt from our side and tells the reader, as far as the link allows."""
        self._handle(sender.AbortAsked(reason))
        await self._shut()

    @property
    def stored_frames(self) -> int:
        """Acknowledged by the decode site's server so far."""
        return self._core.acked

    # What the link and the lane call.

    @property
    def can_write(self) -> bool:
        return self._lane.is_writable

    def send_next(self, now: float) -> None:
        size = self._core.next_bytes
        position = self._core.next
        self._sent[position] = self._link.core.sent(self._key, size, now)
        self._handle(sender.SendPermitted(now))

    def connected(self) -> None:
        self._handle(sender.Connected(time.monotonic()))

    def disconnected(self) -> None:
        self._handle(sender.Disconnected(time.monotonic()))

    def writable(self) -> None:
        self._link.pump()

    def server_error(self, text: str) -> None:
        if self._subject.lower() in text.lower():
            self._handle(sender.Refused(self._core.batch, 0, text, time.monotonic()))

    # From the engine's thread to the loop's.

    def _frame_piece(self, piece: KVPiece) -> None:
        """On the engine's thread, or the framer's."""
        limit = self._link.core.frame_bytes(self._lane.max_payload) - 2 * kv.HEADER_BYTES
        compressible = self._layout.layers[piece.range.layer].kind is not LayerKind.RECURRENT
        for part in kv.cut_piece(self._layout, piece, limit):
            if self._framer is not None:
                self._wait_for_turn()
            codec, parts = kv.Codec.RAW, part.parts
            if self._chooser is not None and compressible:
                codec = self._chooser.choose(self._link.core.bottleneck_bytes_per_s)
            if codec is kv.Codec.PLANES:
                codec, parts = self._encode(part)
            self._append(kv.FrameKind.DATA, part.range, part.offset, codec, parts, part.raw_bytes)

    def _encode(self, part: kv.FrameSlice) -> tuple[kv.Codec, tuple[memoryview, ...]]:
        assert self._chooser is not None
        since = time.perf_counter()
        encoded = encode_planes(part.parts, self._layout.dtype_bytes)
        self._chooser.encoded(part.raw_bytes, len(encoded), time.perf_counter() - since)
        if len(encoded) >= part.raw_bytes:
            return kv.Codec.RAW, part.parts
        return kv.Codec.PLANES, (memoryview(encoded),)

    def _append_message(self, kind: kv.FrameKind, payload: bytes) -> None:
        self._append(kind, LayerRange(0, 0, 0), 0, kv.Codec.RAW, (memoryview(payload),), 0)

    def _append(
        self, kind: kv.FrameKind, piece: LayerRange, offset: int, codec: kv.Codec, parts: tuple[memoryview, ...], raw_bytes: int
    ) -> None:
        stored = sum(len(part) for part in parts)
        head = kv.FrameHead(
            kind, codec, self._transfer.attempt, self._next_position, piece, offset, stored, raw_bytes, self._hash
        )
        frame = kv.encode_frame(head, parts)
        with self._room:
            self._ahead_bytes += frame.total_bytes
            self._incoming.append(frame)
            wake = not self._wake_pending
            self._wake_pending = True
        self._next_position += 1
        self._frame_digests.append(frame.digest)
        self._raw_bytes += raw_bytes
        self._total_bytes += frame.total_bytes
        if wake:
            self._loop.call_soon_threadsafe(self._drain)

    def _wait_for_room(self, size: int) -> None:
        while self._failure is None and self._held_bytes and self._held_bytes + size > self._buffer_bytes:
            # The ticker fails the transfer at its deadline, which wakes us; the timeout is for a loop that has died.
            since = time.monotonic()
            woken = self._room.wait(max(self._deadline - since, 0.0) + 5.0)
            self._blocked_s += time.monotonic() - since
            if not woken:
                raise TransferError(TransferCode.TIMEOUT, "the event loop that sends the frames does not run any more")
        self._raise_failure()

    def _wait_for_turn(self) -> None:
        with self._room:
            while self._failure is None and self._ahead_bytes > self._link.core.window_bytes:
                if not self._room.wait(max(self._deadline - time.monotonic(), 0.0) + 5.0):
                    return
            self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise TransferError(self._failure.code, str(self._failure))

    def _drain(self) -> None:
        with self._room:
            frames, self._incoming = self._incoming, []
            self._wake_pending = False
        for frame in frames:
            self._frames.append(frame)
            self._sizes.append(frame.raw_bytes)
            if self._object_digest is not None:
                self._object_digest.update(frame)
            last = self._closing and self._released + len(self._frames) == self._next_position
            self._handle(sender.FrameQueued(frame.total_bytes, last), pump=False)
        self._link.pump()

    def _on_hashed(self, frames: int) -> None:
        """On the digest's thread."""
        with self._room:
            self._hashed = frames
            self._free()

    def _free(self) -> None:
        """Under the lock: what is both stored and hashed makes room."""
        done = self._released if self._object_digest is None else min(self._released, self._hashed)
        while self._freed < done:
            self._held_bytes -= self._sizes.popleft()
            self._freed += 1
        self._room.notify_all()

    # The state machine's shell.

    def _handle(self, event: sender.SenderEvent, *, pump: bool = True) -> None:
        for instruction in self._core.handle(event):
            self._execute(instruction)
        if self._key:
            self._link.core.offer(self._key, self._core.next_bytes, self._core.outstanding_bytes, self._closing)
            if pump:
                self._link.pump()

    def _execute(self, instruction: sender.SenderInstruction) -> None:
        match instruction:
            case sender.SendFrame(position, batch, sequence, commit, expected):
                self._send(position, batch, sequence, commit, expected)
            case sender.SendPing(batch, sequence):
                self._publish([], 0, self._reply(batch, sequence, _PING))
            case sender.QueryStored():
                if self._query is None or self._query.done():
                    self._query = asyncio.create_task(self._ask_what_is_stored())
            case sender.Release(before):
                self._release(before)
            case sender.Committed(stream_sequence):
                self._committed.set_result(stream_sequence)
            case sender.Failed(code, message):
                self._fail(TransferError(code, message))

    def _send(self, position: int, batch: int, sequence: int, commit: bool, expected: int | None) -> None:
        frame = self._frames[position - self._released]
        operation = _COMMIT if commit else _START if sequence == 1 else _APPEND
        headers = b""
        if expected is not None:
            headers = header_block({"Nats-Expected-Last-Subject-Sequence": str(expected)})
        if position == self._sent_before:
            self._sent_before += 1
            with self._room:
                self._ahead_bytes -= frame.total_bytes
                self._room.notify_all()
        if self._first_sent_at is None:
            self._first_sent_at = time.monotonic()
        self._publish(frame.buffers, frame.total_bytes, self._reply(batch, sequence, operation), headers)

    def _publish(self, parts: list[bytes | memoryview], size: int, reply: str, headers: bytes = b"") -> None:
        try:
            self._lane.publish(self._subject, parts, size, reply=reply, headers=headers)
        except DisconnectedError:
            pass  # The lane tells us when it is back; until then the core only counts the time.
        except LaneError as error:
            self._loop.call_soon(self._handle, sender.Refused(self._core.batch, 0, str(error), time.monotonic()))

    def _reply(self, batch: int, sequence: int, operation: int) -> str:
        # <inbox>.<batch id>.<acknowledge every n messages>.<gap mode>.<sequence>.<operation>.$FI
        return f"{self._inbox}.{self._batch_salt}{batch}.1.fail.{sequence}.{operation}.$FI"

    def _on_reply(self, message: Message) -> None:
        now = time.monotonic()
        batch_id, _, _, _, operation, _ = message.subject[len(self._inbox) + 1 :].split(".")
        batch = int(batch_id[len(self._batch_salt) :])
        if message.status == 503:
            text = f"nobody takes {self._subject}: the link is down or the bucket {self._transfer.bucket} is gone"
            self._handle(sender.Refused(batch, 503, text, now))
            return
        answer: dict[str, Any] = json.loads(bytes(message.payload))
        message.release()
        match answer:
            case {"type": "ack", "seq": sequence}:
                self._handle(sender.Acknowledged(batch, sequence, operation == str(_PING), now))
            case {"type": "gap"}:
                pass  # The exact count follows.
            case {"error": {"err_code": code, "description": text}}:
                self._handle(sender.Refused(batch, code, text, now))
            case {"count": stored, "seq": stream_sequence}:
                self._handle(sender.BatchEnded(batch, stored, stream_sequence, now))
            case _:
                self._handle(sender.Refused(batch, 0, f"an acknowledgement that we do not know: {answer}", now))

    def _release(self, before: int) -> None:
        now = time.monotonic()
        for position in range(self._released, before):
            self._frames.popleft()
            sent = self._sent.pop(position, None)
            if sent is not None and self._key:
                self._link.core.delivered(sent, now)
        with self._room:
            self._released = before
            self._free()

    def _fail(self, error: TransferError) -> None:
        with self._room:
            self._failure = error
            self._room.notify_all()
        if self._core.acked:
            self._tell_reader(str(error))
        if not self._committed.done():
            self._committed.set_exception(error)
            self._committed.exception()

    def _tell_reader(self, reason: str) -> None:
        """Best effort: the reader has its own deadlines. Only for an object that is ours for certain."""
        text = reason.encode()[:1000]
        head = kv.FrameHead(
            kv.FrameKind.ABORT,
            kv.Codec.RAW,
            self._transfer.attempt,
            self._core.queued,
            LayerRange(0, 0, 0),
            0,
            len(text),
            0,
            self._hash,
        )
        frame = kv.encode_frame(head, (memoryview(text),))
        self._publish(frame.buffers, frame.total_bytes, "")

    async def _ask_what_is_stored(self) -> None:
        try:
            found = await direct_get_last(self._lane, self._transfer.bucket, self._subject, deadline_s=_META_TIMEOUT_S)
            if found is None:
                stored, sequence = 0, 0
            else:
                sequence, payload = found
                stored = kv.decode_frame(payload).head.position + 1
        except (LaneError, TimeoutError, kv.FrameError):
            return  # The next tick asks again, until the deadline.
        self._handle(sender.StoredIs(stored, sequence, time.monotonic()))

    async def _tick(self) -> None:
        while not self._core.finished:
            await asyncio.sleep(_TICK_S)
            self._handle(sender.Tick(time.monotonic()))

    async def _publish_meta(self, last_sequence: int, object_digest: "_ObjectDigest") -> bool:
        """Makes the frames an object that any client can read, unless the reader has already deleted them."""
        digest = await asyncio.to_thread(object_digest.result)
        name = self._transfer.object_name
        meta = {
            "name": name,
            "bucket": self._transfer.bucket,
            "nuid": self._transfer.nuid,
            "size": self._total_bytes,
            "chunks": self._next_position,
            "mtime": datetime.now(UTC).isoformat(),
            "digest": f"SHA-256={base64.urlsafe_b64encode(digest).decode()}",
        }
        headers = {
            "Nats-Rollup": "sub",
            "Nats-Expected-Last-Subject-Sequence": str(last_sequence),
            "Nats-Expected-Last-Subject-Sequence-Subject": self._subject,
        }
        subject = meta_subject(self._transfer.bucket, name)
        for _ in range(_META_ATTEMPTS):
            try:
                answer = await self._lane.request(subject, json.dumps(meta).encode(), deadline_s=_META_TIMEOUT_S, headers=headers)
            except (LaneError, TimeoutError):
                await asyncio.sleep(_TICK_S)
                continue
            if answer.status == 0:
                # Refused (wrong last sequence): the reader has verified and deleted the frames.
                return "error" not in json.loads(bytes(answer.payload))
        return False

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
        if self._framer is not None:
            self._framer.shutdown(wait=False, cancel_futures=True)
        if self._object_digest is not None:
            self._object_digest.stop()
        self._frames.clear()
        self._sent.clear()


class _ObjectDigest:
    """SHA-256 over the object, which the object store's format wants, on a thread of its own: the hash releases the GIL."""

    def __init__(self, on_hashed: Any) -> None:
        self._queue: queue.SimpleQueue[kv.OutgoingFrame | None] = queue.SimpleQueue()
        self._sha = hashlib.sha256()
        self._on_hashed = on_hashed
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="kv object digest", daemon=True)
        self._thread.start()

    def update(self, frame: kv.OutgoingFrame) -> None:
        self._queue.put(frame)

    def stop(self) -> None:
        self._stopped = True
        self._queue.put(None)

    def result(self) -> bytes:
        """Over all frames so far; nothing may follow. Blocks."""
        self._queue.put(None)
        self._thread.join()
        return self._sha.digest()

    def _run(self) -> None:
        hashed = 0
        while (frame := self._queue.get()) is not None and not self._stopped:
            for buffer in frame.buffers:
                self._sha.update(buffer)
            hashed += 1
            self._on_hashed(hashed)


def _on_loop(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
