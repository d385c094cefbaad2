"""The receiving side of one attempt, as a pure state machine: frames in, verified pieces out.

The shell hands in frames whose own checksum is right (frame.decode_frame). A piece leaves only after its place in the transfer
and its extent have been checked. The transfer is complete only after every needed range came exactly once and the manifest's
digest over all frames agrees.
"""

from enum import StrEnum

from prfaas.contracts.codes import FailureCode
from prfaas.contracts.kv import KVTransfer, TransferReport
from prfaas.contracts.marks import CourseMarks
from prfaas.contracts.wire import BadMessageError, decode
from prfaas.kvcache.layout import KVLayout, KVPiece, LayerKind, LayerRange
from prfaas.transfer.codec import decode_planes
from prfaas.transfer.frame import (
    Codec,
    FrameError,
    FrameKind,
    IncomingFrame,
    Manifest,
    TransferOpening,
    manifest_digest,
    transfer_hash,
)
from prfaas.transfer.quantize import decode_int8
from prfaas.transfer.receiver_events import (
    DeliveryLost,
    Failed,
    FrameArrived,
    FrameDamaged,
    Install,
    ReceiverEvent,
    ReceiverInstruction,
    Rewind,
    Tick,
    Verified,
)

_MAX_REWINDS = 3
"""Times that a transfer is read again because of its content."""
_MAX_LOSSES = 64
"""Times that it is read again after a lost delivery without a new frame in between: 6 s of a connection that breaks at once."""


class ReceiverState(StrEnum):
    WAITING = "waiting"
    """Nothing has come but frames that do not belong."""
    RECEIVING = "receiving"
    VERIFIED = "verified"
    FAILED = "failed"


class ReceiverCore:
    def __init__(
        self, transfer: KVTransfer, layout: KVLayout, *, now_s: float, deadline_at: float, idle_timeout_s: float | None
    ) -> None:
        """`idle_timeout_s` counts between frames, not before the first one: until then a job may wait in its queue."""
        self.state = ReceiverState.WAITING
        self.frames = 0
        """Accepted so far: also the next expected position."""
        self.raw_bytes = 0
        self.lossy_frames = 0
        self.dropped_frames = 0
        self.cached_tokens = 0
        self.first_frame_at = self.last_frame_at = now_s
        """Moments of the opening frame and of the last accepted one."""
        self._arrival = CourseMarks()
        self._transfer = transfer
        self._layout = layout
        self._hash = transfer_hash(transfer.transfer_id)
        self._deadline_at = deadline_at
        self._idle_timeout_s = idle_timeout_s
        self._last_sequence = 0
        self._rewinds_left = _MAX_REWINDS
        self._losses = 0
        """Lost deliveries since the last accepted frame."""
        self._digests: list[bytes] = []
        needed = [layout.needed(layer, transfer.prefill_tokens, transfer.from_token) for layer in range(len(layout.layers))]
        self._needed_end = [piece.end for piece in needed]
        self._covered = [piece.start for piece in needed]
        """Token (recurrent: byte of the state) that must come next, per layer."""
        self._states: dict[int, bytearray] = {}
        for layer, spec in enumerate(layout.layers):
            if spec.kind is LayerKind.RECURRENT:
                self._needed_end[layer] = spec.state_bytes
                self._covered[layer] = 0

    @property
    def finished(self) -> bool:
        return self.state in (ReceiverState.VERIFIED, ReceiverState.FAILED)

    def report(self) -> TransferReport:
        """Report on what has come so far; complete once the transfer is verified."""
        transfer, layout = self._transfer, self._layout
        whole_bytes = layout.total_bytes(transfer.prefill_tokens)
        return TransferReport(
            bytes=self.raw_bytes,
            saved_bytes=whole_bytes - layout.total_bytes(transfer.prefill_tokens, transfer.from_token),
            reused_tokens=transfer.from_token,
            cached_tokens=self.cached_tokens,
            frames=self.frames,
            lossy_frames=self.lossy_frames,
            attempts=transfer.attempt,
            duration_s=self.last_frame_at - self.first_frame_at,
            arrival=self._arrival.marks(),
        )

    def handle(self, event: ReceiverEvent) -> list[ReceiverInstruction]:
        if self.finished:
            return []
        match event:
            case FrameArrived(frame, stream_sequence, now_s):
                return self._frame(frame, stream_sequence, now_s)
            case FrameDamaged(message, _):
                return self._rewind(message)
            case DeliveryLost(_):
                return self._lost()
            case Tick(now_s):
                return self._tick(now_s)

    def _frame(self, frame: IncomingFrame, stream_sequence: int, now_s: float) -> list[ReceiverInstruction]:
        head = frame.head
        if head.transfer_hash != self._hash or head.attempt != self._transfer.attempt or head.position < self.frames:
            # An old attempt, or a frame that came twice.
            self.dropped_frames += 1
            return []
        if head.kind is FrameKind.ABORT:
            return self._fail(FailureCode.ABORTED, f"the sender gave up: {bytes(frame.payload).decode(errors='replace')}")
        if head.position > self.frames:
            return self._rewind(f"frame {head.position} came where frame {self.frames} was expected")
        if (head.kind is FrameKind.OPEN) != (self.state is ReceiverState.WAITING):
            return self._fail(FailureCode.CORRUPT, f"a frame of kind {head.kind.name} at position {head.position}")
        instructions = self._accept(frame)
        if self.state is ReceiverState.FAILED:
            return instructions
        if not self.frames:
            self.first_frame_at = now_s
        self.frames += 1
        self._digests.append(frame.digest)
        self.last_frame_at = now_s
        self._arrival.add(now_s - self.first_frame_at, self.raw_bytes)
        self._losses = 0
        self._last_sequence = stream_sequence
        return [Verified(self.report())] if self.state is ReceiverState.VERIFIED else instructions

    def _accept(self, frame: IncomingFrame) -> list[ReceiverInstruction]:
        match frame.head.kind:
            case FrameKind.OPEN:
                return self._open(frame)
            case FrameKind.MANIFEST:
                return self._close(frame)
            case _:
                return self._data(frame)

    def _open(self, frame: IncomingFrame) -> list[ReceiverInstruction]:
        try:
            opening = decode(frame.payload, TransferOpening)
        except BadMessageError as error:
            return self._fail(FailureCode.CORRUPT, f"the opening frame does not decode: {error}")
        ours = self._transfer
        if opening.fingerprint != ours.fingerprint or opening.layout != self._layout:
            return self._fail(
                FailureCode.FINGERPRINT,
                f"the sender's model, weights, dtype or layout differ from ours: {opening.fingerprint!r} came, "
                f"expected {ours.fingerprint!r}",
            )
        theirs = opening.transfer_id, opening.from_token, opening.prefill_tokens
        if theirs != (ours.transfer_id, ours.from_token, ours.prefill_tokens):
            return self._fail(
                FailureCode.CORRUPT,
                "transfer {} of tokens {} to {} came, ".format(*theirs)
                + f"expected {ours.transfer_id} of {ours.from_token} to {ours.prefill_tokens}",
            )
        self.state = ReceiverState.RECEIVING
        return []

    def _data(self, frame: IncomingFrame) -> list[ReceiverInstruction]:
        head = frame.head
        layer, start, end = head.range
        size = head.raw_bytes
        if layer >= len(self._layout.layers):
            return self._fail(FailureCode.CORRUPT, f"frame {head.position} is for layer {layer} of {len(self._layout.layers)}")
        recurrent = self._layout.layers[layer].kind is LayerKind.RECURRENT
        first, last = (head.offset, head.offset + size) if recurrent else (start, end)
        if first != self._covered[layer] or not first < last <= self._needed_end[layer]:
            return self._fail(
                FailureCode.CORRUPT,
                f"frame {head.position} covers {first} to {last} of layer {layer}, where {self._covered[layer]} comes next "
                f"and {self._needed_end[layer]} is the end",
            )
        if not recurrent and size != self._layout.range_bytes(head.range):
            return self._fail(
                FailureCode.CORRUPT,
                f"frame {head.position} has {size} bytes for {end - start} tokens of layer {layer}, "
                f"expected {self._layout.range_bytes(head.range)}",
            )
        if head.codec is Codec.INT8 and not self._transfer.lossy:
            return self._fail(
                FailureCode.LOSSY,
                f"frame {head.position} came in 8 bits, which this worker does not install without `engine.lossy-kv`",
            )
        try:
            payload = self._decoded(frame)
        except FrameError as error:
            return self._fail(FailureCode.CORRUPT, f"frame {head.position}: {error}")
        self.lossy_frames += head.codec is Codec.INT8
        if recurrent:
            return self._state_part(head.range, head.offset, payload)
        self._covered[layer] = end
        self.raw_bytes += len(payload)
        return [Install(self._layout.piece(head.range, payload))]

    def _decoded(self, frame: IncomingFrame) -> memoryview:
        """Raises FrameError."""
        head, payload = frame.head, frame.payload
        spec = self._layout.layers[head.range.layer]
        match head.codec:
            case Codec.PLANES:
                return decode_planes(payload, head.raw_bytes, self._layout.dtype_bytes)
            case Codec.INT8 if spec.kind is not LayerKind.RECURRENT:
                return decode_int8(payload, head.raw_bytes, self._layout.dtype, spec.vector_dim)
            case Codec.RAW if len(payload) == head.raw_bytes:
                return payload
        raise FrameError(f"it has {len(payload)} bytes in codec {head.codec.name}, and says {head.raw_bytes}")

    def _state_part(self, piece: LayerRange, offset: int, payload: memoryview) -> list[ReceiverInstruction]:
        if (piece.start, piece.end) != (0, self._transfer.prefill_tokens):
            return self._fail(
                FailureCode.CORRUPT, f"a state after {piece.end} tokens in layer {piece.layer}: not the one asked for"
            )
        state = self._states.setdefault(piece.layer, bytearray(self._needed_end[piece.layer]))
        state[offset : offset + len(payload)] = payload
        self._covered[piece.layer] += len(payload)
        self.raw_bytes += len(payload)
        if self._covered[piece.layer] < self._needed_end[piece.layer]:
            return []
        return [Install(KVPiece(piece, memoryview(self._states.pop(piece.layer)), memoryview(b"")))]

    def _close(self, frame: IncomingFrame) -> list[ReceiverInstruction]:
        try:
            manifest = decode(frame.payload, Manifest)
        except BadMessageError as error:
            return self._fail(FailureCode.CORRUPT, f"the manifest does not decode: {error}")
        if manifest.fingerprint != self._transfer.fingerprint:
            return self._fail(FailureCode.FINGERPRINT, f"the manifest is of {manifest.fingerprint!r}")
        missing = [layer for layer, end in enumerate(self._needed_end) if self._covered[layer] != end]
        if missing:
            return self._fail(FailureCode.CORRUPT, f"the manifest came, but layers {missing} are not complete")
        if manifest.digest != manifest_digest(self._digests) or (manifest.frames, manifest.raw_bytes) != (
            self.frames,
            self.raw_bytes,
        ):
            return self._fail(
                FailureCode.CORRUPT,
                f"the whole does not match its manifest: {self.frames} frames, {self.raw_bytes} bytes came, "
                f"{manifest.frames} frames, {manifest.raw_bytes} bytes were sent",
            )
        self.cached_tokens = manifest.cached_tokens
        self.state = ReceiverState.VERIFIED
        return []

    def _rewind(self, why: str) -> list[ReceiverInstruction]:
        """The stream is right and the delivery was not, or the stream is wrong: reading again tells."""
        if self._rewinds_left == 0:
            return self._fail(FailureCode.CORRUPT, f"{why}; reading it again did not help")
        self._rewinds_left -= 1
        return [Rewind(self._last_sequence + 1 if self._last_sequence else 0)]

    def _lost(self) -> list[ReceiverInstruction]:
        self._losses += 1
        if self._losses > _MAX_LOSSES:
            return self._fail(FailureCode.BROKER, f"reading was interrupted {self._losses} times without a new frame in between")
        return [Rewind(self._last_sequence + 1 if self._last_sequence else 0)]

    def _tick(self, now_s: float) -> list[ReceiverInstruction]:
        if now_s >= self._deadline_at:
            return self._fail(
                FailureCode.TIMEOUT, f"not complete by its deadline: {self.frames} frames, {self.raw_bytes} bytes came"
            )
        idle = self._idle_timeout_s
        if idle is not None and self.state is ReceiverState.RECEIVING and now_s - self.last_frame_at >= idle:
            return self._fail(FailureCode.TIMEOUT, f"no frame for {idle:g} s: {self.frames} frames, {self.raw_bytes} bytes came")
        return []

    def _fail(self, code: FailureCode, message: str) -> list[ReceiverInstruction]:
        self.state = ReceiverState.FAILED
        return [Failed(code, message)]

    def validate(self) -> None:
        assert self.frames == len(self._digests)
        for covered, end in zip(self._covered, self._needed_end, strict=True):
            assert covered <= end
        if self.state is ReceiverState.VERIFIED:
            assert self._covered == self._needed_end
            assert not self._states
