"""The decode side of one attempt: reads the object from the site's own server while it is being written."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Self

from prfaas.bus.bulk.bucket import api, chunk_subject, direct_get_last, meta_subject, stream_name
from prfaas.bus.bulk.lane import BulkLane
from prfaas.bus.bulk.wire import LaneError, Message
from prfaas.contracts import subjects, wire
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.kv import KVStored, KVTransfer, TransferReport
from prfaas.kvcache.layout import KVLayout, KVPiece
from prfaas.telemetry.faults import FAULTS
from prfaas.transfer import receiver_events as events
from prfaas.transfer.direct_frames import unpack_frames
from prfaas.transfer.direct_inbox import DirectInbox
from prfaas.transfer.errors import TransferError
from prfaas.transfer.frame import ABORT_POSITION, FrameError
from prfaas.transfer.object_consumer import API_TIMEOUT_S, ObjectConsumer
from prfaas.transfer.receiver_core import ReceiverCore
from prfaas.transfer.sealed_frame import frames_of

_TICK_S = 0.25
_RECONNECT_S = 3.0
"""Time for a running server to have the connection back: it is dialled again once a second at least."""
_REOPEN_PAUSE_S = 0.05
_MAX_REOPEN_PAUSE_S = 1.0


class KVReceiver:
    """All methods belong to the event loop's thread. `install` is called there too, and must copy what it keeps."""

    def __init__(
        self,
        lane: BulkLane,
        transfer: KVTransfer,
        layout: KVLayout,
        install: Callable[[KVPiece], None],
        *,
        timeout_s: float,
        idle_timeout_s: float | None = None,
        secret: bytes | None = None,
        inbox: DirectInbox | None = None,
    ) -> None:
        """`timeout_s` bounds the whole transfer; `idle_timeout_s` the time between two frames once the first has come. With a
        `secret` only frames are taken that are sealed with it. `inbox`: the one that the transfer names, with room for it."""
        now_s = time.monotonic()
        self._lane = lane
        self._transfer = transfer
        self._install = install
        self._frames = frames_of(transfer, secret)
        self._timeout_s = timeout_s
        self._core = ReceiverCore(
            transfer, layout, now_s=now_s, deadline_at=now_s + timeout_s, idle_timeout_s=idle_timeout_s
        )  # fmt: skip
        self._inbox = inbox
        self._consumer = ObjectConsumer(lane, transfer, self._on_message, self._on_message_failed)
        self._done: asyncio.Future[TransferReport] = asyncio.get_running_loop().create_future()
        self._opening: asyncio.Task[None] | None = None
        self._answering: asyncio.Task[None] | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._asked_sid = 0
        self._closed = False

    async def open(self) -> Self:
        """Returns when the read side is in place: from then on frames flow the moment they exist. Raises TransferError."""
        if self._inbox is not None:
            self._inbox.take(self._transfer.nuid, self._on_direct)
        else:
            await self._open_object()
        self._lane.add_listener(self)
        self._ticker = asyncio.create_task(self._tick(), name=f"kv receiver {self._transfer.object_name}")
        return self

    def read_object(self) -> None:
        """Reads the object after all: the sender knows no inbox."""
        if self._inbox is not None and not self._closed:
            self._leave_inbox()
            self._subscribe_asked()
            self._reopen(0)

    async def _open_object(self) -> None:
        try:
            await self._lane.until_connected(min(self._timeout_s, _RECONNECT_S))
            await self._consumer.open(0)
        except (LaneError, TimeoutError) as error:
            await self.close()
            text = f"cannot read from {self._consumer.stream}: {error or 'no answer'}"
            raise TransferError(FailureCode.BROKER, text) from error
        self._subscribe_asked()

    def _subscribe_asked(self) -> None:
        self._asked_sid = self._lane.subscribe(subjects.kv_stored(self._transfer.bucket, self._transfer.nuid), self._on_asked)

    async def verified(self, timeout_s: float) -> TransferReport:
        """Returns when everything is installed and verified. Raises TransferError, or what `install` raised."""
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(self._done)
        except TimeoutError as error:
            raise TransferError(
                FailureCode.TIMEOUT,
                f"not complete after {timeout_s:g} s: {self._core.frames} frames, {self._core.raw_bytes} bytes came",
            ) from error

    def report(self) -> TransferReport:
        """Report on what has come so far."""
        return self._core.report()

    @property
    def first_frame_at(self) -> float:
        """Moment of the opening frame, by time.monotonic()."""
        return self._core.first_frame_at

    @property
    def last_frame_at(self) -> float:
        """Moment of the last accepted frame, by time.monotonic()."""
        return self._core.last_frame_at

    async def close(self) -> None:
        """Deletes the consumer and the object. What the server cannot be told now, the sweep finds."""
        if self._closed:
            return
        self._closed = True
        direct = self._inbox is not None
        if direct:
            self._leave_inbox()
        # Nothing may call back any more.
        self._lane.remove_listener(self)
        tasks = [task for task in (self._ticker, self._opening, self._answering) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not self._done.done():
            self._done.set_exception(TransferError(FailureCode.ABORTED, "the receiver was closed"))
        self._done.exception()
        if direct:
            return  # nothing is at the server
        # What is left is at the server.
        self._consumer.silence()
        self._lane.unsubscribe(self._asked_sid)
        with contextlib.suppress(LaneError, TimeoutError):
            await self._consumer.delete()
        with contextlib.suppress(LaneError, TimeoutError):
            await delete_object(self._lane, self._transfer)

    # What the lane calls.

    def connected(self) -> None:
        if self._inbox is None:  # else the sender sends again
            self._handle(events.DeliveryLost(time.monotonic()))

    def disconnected(self) -> None:
        pass

    def writable(self) -> None:
        pass

    def server_error(self, text: str) -> None:
        if self._consumer.stream.lower() in text.lower() or self._consumer.subject.lower() in text.lower():
            self._fail(TransferError(FailureCode.BROKER, text))

    def _on_message(self, message: Message) -> None:
        now_s = time.monotonic()
        if message.status:
            if self._consumer.status_came(message, now_s):
                self._handle(events.DeliveryLost(now_s))
            elif not self._core.finished:
                self._consumer.top_up()
            return
        if self._done.done():
            message.release()
            return
        stream_sequence = _stream_sequence(message.reply)
        if stream_sequence is None:
            # No delivery of the consumer: any client may publish to an inbox.
            FAULTS.undecodable["frame"] += 1
            message.release()
            return
        self._consumer.frame_came(now_s)
        try:
            event: events.ReceiverEvent = events.FrameArrived(self._frames.decode(message.payload), stream_sequence, now_s)
        except FrameError as error:
            event = events.FrameDamaged(str(error), now_s)
        self._handle(event)
        del event  # it holds views into the message, whose buffer is reused
        message.release()
        if not self._core.finished:
            self._consumer.top_up()

    def _on_direct(self, message: Message) -> None:
        """Takes all frames of one message, which the inbox releases. What is missing comes again, with all others, when the
        sender asks."""
        now_s = time.monotonic()
        try:
            for view in unpack_frames(message.payload):
                if self._done.done():
                    break
                frame = self._frames.decode(view)
                if frame.head.position > self._core.frames and frame.head.position != ABORT_POSITION:
                    break  # a message before this one was lost
                self._handle(events.FrameArrived(frame, frame.head.position + 1, now_s))
        except FrameError as error:
            self._handle(events.FrameDamaged(str(error), now_s))
        except Exception as error:
            self._on_message_failed(error)
        if self._done.done() and self._inbox is not None:
            if self._done.exception() is None:
                self._inbox.verified(self._transfer.nuid)
            else:
                self._inbox.release(self._transfer.nuid)  # it is not taken any more
            if message.reply:
                self._inbox.answer(self._transfer.nuid, message.reply)

    def _on_message_failed(self, error: Exception) -> None:
        """Ends this attempt: nothing would arrive any more."""
        self._fail(TransferError(FailureCode.CORRUPT, f"a frame could not be handled: {error!r}"))

    # The state machine's shell.

    def _handle(self, event: events.ReceiverEvent) -> None:
        for instruction in self._core.handle(event):
            match instruction:
                case events.Install(piece):
                    try:
                        self._install(piece)
                    except Exception as error:
                        self._fail(error)
                case events.Rewind(stream_sequence):
                    if self._inbox is None:
                        self._reopen(stream_sequence)
                case events.Verified(report):
                    if not self._done.done():
                        self._done.set_result(report)
                case events.Failed(code, message):
                    self._fail(TransferError(code, message))

    def _fail(self, error: Exception) -> None:
        if not self._done.done():
            self._done.set_exception(error)
            self._done.exception()

    async def _tick(self) -> None:
        while not self._done.done():
            await asyncio.sleep(_TICK_S)
            now_s = time.monotonic()
            self._handle(events.Tick(now_s))
            if self._inbox is None and self._consumer.fell_silent(now_s):
                self._handle(events.DeliveryLost(now_s))

    def _leave_inbox(self) -> None:
        assert self._inbox is not None
        self._inbox.release(self._transfer.nuid)
        self._inbox = None

    def _reopen(self, start_sequence: int) -> None:
        self._consumer.silence()
        if self._opening is not None:
            self._opening.cancel()
        self._opening = asyncio.create_task(self._reopen_consumer(start_sequence))

    async def _reopen_consumer(self, start_sequence: int) -> None:
        pause_s = _REOPEN_PAUSE_S
        while not self._done.done():
            try:
                with contextlib.suppress(LaneError, TimeoutError):
                    await self._consumer.delete()
                await self._consumer.check_still_stored(start_sequence)
                await self._consumer.open(start_sequence)
                return
            except TransferError as error:
                self._fail(error)
            except (LaneError, TimeoutError):
                # Until the core's deadline: the server may still be starting.
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _MAX_REOPEN_PAUSE_S)

    # The sender's question.

    def _on_asked(self, message: Message) -> None:
        reply = message.reply
        message.release()
        if self._answering is None or self._answering.done():
            self._answering = asyncio.create_task(self._answer(reply))

    async def _answer(self, reply: str) -> None:
        """Tells what is stored, read from the last frame itself. Without an answer the sender asks again."""
        with contextlib.suppress(LaneError, TimeoutError, FrameError):
            found = await direct_get_last(self._lane, self._transfer.bucket, self._consumer.subject, timeout_s=API_TIMEOUT_S)
            stored = KVStored(frames=0, stream_sequence=0)
            if found is not None:
                stored = KVStored(frames=self._frames.decode(found[1]).head.position + 1, stream_sequence=found[0])
            payload = wire.encode(stored)
            self._lane.publish(reply, [payload], len(payload))


async def delete_object(lane: BulkLane, transfer: KVTransfer) -> None:
    """Removes frames and meta message. Raises LaneError, TimeoutError."""
    for subject in (chunk_subject(transfer.bucket, transfer.nuid), meta_subject(transfer.bucket, transfer.object_name)):
        await api(lane, f"STREAM.PURGE.{stream_name(transfer.bucket)}", {"filter": subject}, timeout_s=API_TIMEOUT_S)


def _stream_sequence(reply: str) -> int | None:
    """Stream sequence in the reply subject: $JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<delivered>.<stream seq>...

    None where the subject is no delivery's."""
    fields = reply.split(".")
    at = 5 if len(fields) == 9 else 7
    if len(fields) <= at or fields[:2] != ["$JS", "ACK"] or not fields[at].isascii() or not fields[at].isdigit():
        return None
    return int(fields[at])
