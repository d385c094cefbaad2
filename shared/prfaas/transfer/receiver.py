"""The decode side of one attempt: reads the object from the site's own server while it is being written."""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import Callable
from typing import Any, Self

import msgspec

from prfaas.bus.bulk.bucket import (
    STREAM_NOT_FOUND,
    JetStreamError,
    api,
    chunk_subject,
    direct_get_last,
    meta_subject,
    stream_name,
)
from prfaas.bus.bulk.lane import BulkLane
from prfaas.bus.bulk.wire import LaneError, Message
from prfaas.contracts import subjects, wire
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.kv import KVStored, KVTransfer
from prfaas.kvcache.layout import KVLayout, KVPiece
from prfaas.telemetry.faults import FAULTS
from prfaas.transfer import receiver_core as receiver
from prfaas.transfer.errors import TransferError
from prfaas.transfer.frame import FrameError, decode_frame

_TICK_S = 0.25
_PULL_FRAMES = 16
"""Two pulls are kept outstanding; the server is near, so this is several bandwidth-delay products."""
_RECONNECT_S = 3.0
"""Within which a server that runs has the connection back: it is dialled again once a second at least."""
_PULL_EXPIRES_S = 30.0
_HEARTBEAT_S = 2.0
_SILENT_AFTER_S = 3 * _HEARTBEAT_S
CONSUMER_INACTIVE_S = 20.0
"""The server drops the consumer of a reader that died."""
_API_TIMEOUT_S = 5.0
_NANOSECONDS = 1_000_000_000


class ReaderReport(msgspec.Struct, frozen=True, kw_only=True):
    bytes: int
    """Canonical KV bytes, without headers."""
    frames: int
    lossy_frames: int
    """Of `frames`: installed from 8 bits."""
    cached_tokens: int
    """Of the prompt's prefix, that the prefill worker did not compute."""
    first_frame_at: float
    """time.monotonic() of the opening frame."""
    last_frame_at: float
    """time.monotonic() of the manifest, verified."""


class KVReceiver:
    """All methods belong to the event loop's thread. `install` is called there too, and must copy what it keeps."""

    def __init__(
        self,
        lane: BulkLane,
        transfer: KVTransfer,
        layout: KVLayout,
        install: Callable[[KVPiece], None],
        *,
        deadline_s: float,
        idle_timeout_s: float | None = None,
    ) -> None:
        now = time.monotonic()
        self._lane = lane
        self._transfer = transfer
        self._install = install
        self._stream = stream_name(transfer.bucket)
        self._subject = chunk_subject(transfer.bucket, transfer.nuid)
        self._core = receiver.ReceiverCore(transfer, layout, now=now, deadline=now + deadline_s, idle_timeout_s=idle_timeout_s)
        self._done: asyncio.Future[ReaderReport] = asyncio.get_running_loop().create_future()
        self._first_frame_at = 0.0
        self._sid = 0
        self._inbox = ""
        self._consumer = ""
        self._start_sequence = 0
        self._credit = 0
        self._heard_at = now
        self._opening: asyncio.Task[None] | None = None
        self._answering: asyncio.Task[None] | None = None
        self._asked_sid = 0
        self._ticker: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    async def open(
        cls,
        lane: BulkLane,
        transfer: KVTransfer,
        layout: KVLayout,
        install: Callable[[KVPiece], None],
        *,
        deadline_s: float,
        idle_timeout_s: float | None = None,
    ) -> Self:
        """Returns when the read side is in place: from then on frames flow the moment they exist. `deadline_s` bounds the whole
        transfer; `idle_timeout_s` the time between two frames once the first has come. Raises TransferError."""
        reader = cls(lane, transfer, layout, install, deadline_s=deadline_s, idle_timeout_s=idle_timeout_s)
        try:
            await lane.until_connected(min(deadline_s, _RECONNECT_S))
            await reader._open_consumer()
        except (LaneError, TimeoutError) as error:
            await reader.close()
            raise TransferError(FailureCode.BROKER, f"cannot read from {reader._stream}: {error or 'no answer'}") from error
        site = transfer.bucket.removeprefix("kv-")
        reader._asked_sid = lane.subscribe(subjects.kv_stored(site, transfer.nuid), reader._on_asked)
        lane.add_listener(reader)
        reader._ticker = asyncio.create_task(reader._tick(), name=f"kv reader {transfer.object_name}")
        return reader

    async def verified(self, deadline_s: float) -> ReaderReport:
        """Returns when everything is installed and verified. Raises TransferError, or what `install` raised."""
        try:
            async with asyncio.timeout(deadline_s):
                return await asyncio.shield(self._done)
        except TimeoutError as error:
            raise TransferError(
                FailureCode.TIMEOUT,
                f"not complete after {deadline_s:g} s: {self._core.frames} frames, {self._core.raw_bytes} bytes came",
            ) from error

    async def close(self) -> None:
        """Deletes the consumer and the object. What the server cannot be told now, the sweep finds."""
        if self._closed:
            return
        self._closed = True
        self._lane.remove_listener(self)
        tasks = [task for task in (self._ticker, self._opening, self._answering) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not self._done.done():
            self._done.set_exception(TransferError(FailureCode.ABORTED, "the reader was closed"))
        self._done.exception()
        self._lane.unsubscribe(self._sid)
        self._lane.unsubscribe(self._asked_sid)
        with contextlib.suppress(LaneError, TimeoutError):
            await self._delete_consumer()
        with contextlib.suppress(LaneError, TimeoutError):
            await delete_object(self._lane, self._transfer)

    # What the lane calls.

    def connected(self) -> None:
        self._handle(receiver.DeliveryLost(time.monotonic()))

    def disconnected(self) -> None:
        pass

    def writable(self) -> None:
        pass

    def server_error(self, text: str) -> None:
        if self._stream.lower() in text.lower() or self._subject.lower() in text.lower():
            self._fail(TransferError(FailureCode.BROKER, text))

    # The state machine's shell.

    def _handle(self, event: receiver.ReceiverEvent) -> None:
        for instruction in self._core.handle(event):
            match instruction:
                case receiver.Install(piece):
                    try:
                        self._install(piece)
                    except Exception as error:
                        self._fail(error)
                case receiver.Rewind(stream_sequence):
                    self._reopen(stream_sequence)
                case receiver.Verified():
                    self._finish(instruction)
                case receiver.Failed(code, message):
                    self._fail(TransferError(code, message))

    def _finish(self, verified: receiver.Verified) -> None:
        if not self._done.done():
            report = ReaderReport(
                bytes=verified.raw_bytes,
                frames=verified.frames,
                lossy_frames=verified.lossy_frames,
                cached_tokens=verified.cached_tokens,
                first_frame_at=self._first_frame_at,
                last_frame_at=time.monotonic(),
            )
            self._done.set_result(report)

    def _fail(self, error: Exception) -> None:
        if not self._done.done():
            self._done.set_exception(error)
            self._done.exception()

    async def _tick(self) -> None:
        while not self._done.done():
            await asyncio.sleep(_TICK_S)
            now = time.monotonic()
            self._handle(receiver.Tick(now))
            if self._lane.is_connected and now - self._heard_at > _SILENT_AFTER_S:
                # The consumer is gone: a server that was restarted forgets it.
                self._heard_at = now
                self._handle(receiver.DeliveryLost(now))

    def _on_asked(self, message: Message) -> None:
        reply = message.reply
        message.release()
        if self._answering is None or self._answering.done():
            self._answering = asyncio.create_task(self._answer(reply))

    async def _answer(self, reply: str) -> None:
        """What is stored, from the last frame itself. Without an answer the writer asks again."""
        with contextlib.suppress(LaneError, TimeoutError, FrameError):
            found = await direct_get_last(self._lane, self._transfer.bucket, self._subject, deadline_s=_API_TIMEOUT_S)
            stored = KVStored(frames=0, stream_sequence=0)
            if found is not None:
                stored = KVStored(frames=decode_frame(found[1]).head.position + 1, stream_sequence=found[0])
            payload = wire.encode(stored)
            self._lane.publish(reply, [payload], len(payload))

    # The pull consumer.

    def _reopen(self, start_sequence: int) -> None:
        self._start_sequence = start_sequence
        self._lane.unsubscribe(self._sid)
        if self._opening is not None:
            self._opening.cancel()
        self._opening = asyncio.create_task(self._reopen_consumer())

    async def _reopen_consumer(self) -> None:
        pause_s = 0.05
        while not self._done.done():
            try:
                with contextlib.suppress(LaneError, TimeoutError):
                    await self._delete_consumer()
                await self._check_still_stored()
                await self._open_consumer()
                return
            except TransferError as error:
                self._fail(error)
            except (LaneError, TimeoutError):
                # Until the core's deadline: the server may still be starting.
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, 1.0)

    async def _check_still_stored(self) -> None:
        """A memory store dies with its server: waiting for the rest of an object that has lost its beginning is vain."""
        if not self._start_sequence:
            return
        try:
            state = (await api(self._lane, f"STREAM.INFO.{self._stream}", deadline_s=_API_TIMEOUT_S))["state"]
        except JetStreamError as error:
            if error.code != STREAM_NOT_FOUND:
                raise
            state = {"last_seq": 0}
        if int(state.get("last_seq", 0)) < self._start_sequence - 1:
            raise TransferError(FailureCode.BROKER, f"the server has lost {self._stream} and what was stored of this object")

    async def _open_consumer(self) -> None:
        name = f"kvr-{secrets.token_hex(8)}"
        config: dict[str, Any] = {
            "name": name,
            "filter_subject": self._subject,
            "deliver_policy": "by_start_sequence" if self._start_sequence else "all",
            "ack_policy": "none",
            "replay_policy": "instant",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(CONSUMER_INACTIVE_S * _NANOSECONDS),
        }
        if self._start_sequence:
            config["opt_start_seq"] = self._start_sequence
        self._consumer = name
        self._credit = 0
        self._inbox = f"{self._lane.inbox}-{name}"
        self._sid = self._lane.subscribe(self._inbox, self._on_message, self._on_message_failed)
        await api(
            self._lane,
            f"CONSUMER.CREATE.{self._stream}.{name}.{self._subject}",
            {"stream_name": self._stream, "config": config, "action": "create"},
            deadline_s=_API_TIMEOUT_S,
        )
        self._heard_at = time.monotonic()
        self._top_up()

    async def _delete_consumer(self) -> None:
        if self._consumer and self._lane.is_connected:
            name, self._consumer = self._consumer, ""
            await api(self._lane, f"CONSUMER.DELETE.{self._stream}.{name}", deadline_s=_API_TIMEOUT_S)

    def _top_up(self) -> None:
        """Keeps between one and two pulls outstanding."""
        while self._credit <= _PULL_FRAMES:
            pull = {
                "batch": _PULL_FRAMES,
                "expires": int(_PULL_EXPIRES_S * _NANOSECONDS),
                "idle_heartbeat": int(_HEARTBEAT_S * _NANOSECONDS),
            }
            payload = json.dumps(pull).encode()
            try:
                self._lane.publish(
                    f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}", [payload], len(payload), reply=self._inbox
                )
            except LaneError:
                return
            self._credit += _PULL_FRAMES

    def _on_message(self, message: Message) -> None:
        now = time.monotonic()
        self._heard_at = now
        if message.status:
            self._on_status(message, now)
            return
        if self._done.done():
            message.release()
            return
        stream_sequence = _stream_sequence(message.reply)
        if stream_sequence is None:
            # No delivery of the consumer: anybody may publish to an inbox.
            FAULTS.undecodable["frame"] += 1
            message.release()
            return
        self._credit -= 1
        self._first_frame_at = self._first_frame_at or now
        try:
            event: receiver.ReceiverEvent = receiver.FrameArrived(decode_frame(message.payload), stream_sequence, now)
        except FrameError as error:
            event = receiver.FrameDamaged(str(error), now)
        self._handle(event)
        del event
        message.release()
        if not self._core.finished:
            self._top_up()

    def _on_message_failed(self, error: Exception) -> None:
        """Ends this attempt: nothing would arrive any more."""
        self._fail(TransferError(FailureCode.CORRUPT, f"a frame could not be handled: {error!r}"))

    def _on_status(self, message: Message, now: float) -> None:
        status = message.status
        if status == 100:
            return
        pending = message.header("Nats-Pending-Messages")
        if pending is not None and pending.isascii() and pending.isdigit():
            self._credit -= int(pending)
            if not self._core.finished:
                self._top_up()
        elif status in (404, 409, 503):
            self._handle(receiver.DeliveryLost(now))


async def delete_object(lane: BulkLane, transfer: KVTransfer) -> None:
    """Removes frames and meta message. Raises LaneError, TimeoutError."""
    for subject in (chunk_subject(transfer.bucket, transfer.nuid), meta_subject(transfer.bucket, transfer.object_name)):
        await api(lane, f"STREAM.PURGE.{stream_name(transfer.bucket)}", {"filter": subject}, deadline_s=_API_TIMEOUT_S)


def _stream_sequence(reply: str) -> int | None:
    """Reads it from a delivery's reply subject: $JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<delivered>.<stream seq>...

    None for what is no delivery."""
    fields = reply.split(".")
    at = 5 if len(fields) == 9 else 7
    if len(fields) <= at or fields[:2] != ["$JS", "ACK"] or not fields[at].isascii() or not fields[at].isdigit():
        return None
    return int(fields[at])
