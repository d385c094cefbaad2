"""The prefill side of a small transfer within a site: all frames in as few messages as hold them, straight to their receiver."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Sequence
from typing import Self

from prfaas.bus.bulk.connection import Buffer
from prfaas.bus.bulk.lane import BulkLane
from prfaas.bus.bulk.wire import DisconnectedError, LaneError, Message
from prfaas.contracts import subjects, wire
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.kv import KVTaken, KVTransfer
from prfaas.kvcache.layout import KVLayout, KVPiece
from prfaas.link.link_core import LinkCore
from prfaas.telemetry.fault_points import FaultPoint, reach
from prfaas.telemetry.faults import FAULTS
from prfaas.transfer import direct_core as core
from prfaas.transfer.direct_frames import pack_frames
from prfaas.transfer.errors import TransferError
from prfaas.transfer.frame import FrameKind, OutgoingFrame
from prfaas.transfer.framer import Framer
from prfaas.transfer.sealed_frame import frames_of
from prfaas.transfer.send_options import SendOptions, SendReport

_TICK_S = 0.25
_NO_RESPONDERS = 503


class DirectSender:
    """Does what KVSender does, for a transfer that has a `direct_inbox`: `put` belongs to the engine's thread, `finish` to any,
    everything else to the event loop's."""

    def __init__(self, lane: BulkLane, transfer: KVTransfer, layout: KVLayout, link: LinkCore, options: SendOptions) -> None:
        assert transfer.direct_inbox is not None
        deadline_at = time.monotonic() + options.timeout_s
        self._lane = lane
        self._transfer = transfer
        self._core = core.DirectCore(deadline_at=deadline_at)
        self._framer = Framer(
            transfer,
            layout,
            link,
            frames_of(transfer, options.secret),
            max_payload=lambda: lane.max_payload,
            ready=self._drain,
            codecs=[],  # a codec pays on links that are slower than it
            buffer_bytes=options.buffer_bytes,
            deadline_at=deadline_at,
        )
        self._frames: list[OutgoingFrame] = []
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._subject = subjects.kv_direct(transfer.bucket, transfer.direct_inbox, transfer.nuid)
        self._inbox = lane.open_inbox(self._on_reply, subjects.kv_bucket_site(transfer.bucket), self._on_reply_failed)
        self._verified: asyncio.Future[None] = self._loop.create_future()
        self._first_sent_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def open(self) -> Self:
        self._lane.add_listener(self)
        self._wait()
        self._framer.put_opening()
        return self

    def put(self, piece: KVPiece) -> None:
        """Cuts, checksums and keeps a piece without copying it: its buffers must not change any more. Raises TransferError when
        the attempt is dead, ValueError for a piece that is not what the layout says."""
        assert threading.get_ident() != self._loop_thread, "put() blocks: not on the loop's thread"
        self._framer.put(piece)

    def finish(self, *, cached_tokens: int = 0) -> None:
        """Adds the manifest, with which all frames leave. Raises TransferError when the attempt is dead."""
        self._framer.put_manifest(cached_tokens)

    async def close(self) -> SendReport:
        """Returns when the receiver has verified everything. Raises TransferError."""
        try:
            await self._framer.settled()
            await asyncio.shield(self._verified)
            verified_at = time.monotonic()
        finally:
            self._shut()
        return SendReport(
            bytes=self._framer.total_bytes,
            raw_bytes=self._framer.raw_bytes,
            frames=self._framer.frames,
            resent_frames=(self._core.sendings - 1) * self._framer.frames,
            lossy_frames=0,
            duration_s=verified_at - (self._first_sent_at or verified_at),
            blocked_s=self.blocked_s,
            object_complete=False,
        )

    async def abort(self, reason: str) -> None:
        """Ends the attempt from our side and tells the receiver, as far as the connection allows."""
        self._handle(core.Broken(FailureCode.ABORTED, reason))
        self._shut()

    @property
    def size_bytes(self) -> int:
        """Canonical KV bytes put so far."""
        return self._framer.raw_bytes

    @property
    def blocked_s(self) -> float:
        """Time for which `put` has made the engine wait."""
        return self._framer.blocked_s

    # What the lane calls.

    def connected(self) -> None:
        self._handle(core.Connected(time.monotonic()))

    def disconnected(self) -> None:
        pass

    def writable(self) -> None:
        pass

    def server_error(self, text: str) -> None:
        if self._subject.lower() in text.lower():
            self._handle(core.Broken(FailureCode.BROKER, text))

    # The state machine's shell.

    def _drain(self) -> None:
        frames = self._framer.take()
        self._frames += frames
        # They stay until they are verified, within the bound on what is sent so, and the engine waits for none.
        self._framer.sent(sum(frame.total_bytes for frame in frames))
        self._framer.freed(len(frames))
        if self._frames[-1].kind is FrameKind.MANIFEST:
            self._handle(core.FramesComplete(time.monotonic()))

    def _handle(self, event: core.DirectEvent) -> None:
        """Never raises: an error that nothing foresaw ends the attempt, which would wait for ever."""
        try:
            self._obey(self._core.handle(event))
        except Exception as error:
            self._obey(self._core.handle(core.Broken(FailureCode.ABORTED, f"the frames could not be sent: {error!r}")))

    def _obey(self, instructions: Sequence[core.DirectInstruction]) -> None:
        for instruction in instructions:
            match instruction:
                case core.SendAll():
                    self._send_all()
                case core.Ask():
                    self._publish([], 0)
                case core.Done():
                    self._verified.set_result(None)
                case core.Failed(code, message):
                    self._fail(TransferError(code, message))

    def _send_all(self) -> None:
        self._first_sent_at = self._first_sent_at or time.monotonic()
        position = 0
        for message in pack_frames(self._frames, self._lane.max_payload):
            for kind in message.kinds:
                point = FaultPoint.MANIFEST if kind is FrameKind.MANIFEST else FaultPoint.FRAME
                reach(point, self._transfer.transfer_id, position)
                position += 1
            self._publish(message.buffers, message.size_bytes)

    def _publish(self, buffers: Sequence[Buffer], size_bytes: int) -> None:
        try:
            self._lane.publish(self._subject, buffers, size_bytes, reply=self._inbox)
        except DisconnectedError:
            pass  # The receiver is asked what has come once there is a connection.
        except LaneError as error:
            self._obey(self._core.handle(core.Broken(FailureCode.BROKER, str(error))))

    def _wait(self) -> None:
        self._timer = self._loop.call_later(_TICK_S, self._tick)

    def _tick(self) -> None:
        self._handle(core.Tick(time.monotonic()))
        if not self._core.finished:
            self._wait()

    def _on_reply(self, message: Message) -> None:
        status, payload = message.status, bytes(message.payload)
        message.release()
        if status == _NO_RESPONDERS:
            self._handle(core.Unheard(time.monotonic()))
            return
        try:
            taken = wire.decode(payload, KVTaken)
        except wire.BadMessageError:
            FAULTS.undecodable["kv_taken"] += 1
            return
        if taken.verified:
            self._handle(core.Verified())
        else:
            self._handle(core.Incomplete(time.monotonic()) if taken.incomplete else core.NotTaken())

    def _on_reply_failed(self, error: Exception) -> None:
        self._handle(core.Broken(FailureCode.BROKER, f"an answer of the receiver could not be handled: {error!r}"))

    def _fail(self, error: TransferError) -> None:
        self._framer.fail(error)
        self._verified.set_exception(error)
        self._verified.exception()
        # Best effort: the receiver has its own deadlines.
        with contextlib.suppress(LaneError):
            for message in pack_frames([self._framer.abort_frame(str(error))], self._lane.max_payload):
                self._lane.publish(self._subject, message.buffers, message.size_bytes)

    def _shut(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._lane.remove_listener(self)
        self._lane.close_inbox(self._inbox)
        self._framer.close()
        self._frames.clear()
