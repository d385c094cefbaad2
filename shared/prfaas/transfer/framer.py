"""Framer: pieces from the engine's thread become frames for the loop's, bounded, without a copy."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec

from prfaas.contracts.codes import FailureCode
from prfaas.contracts.kv import KVTransfer
from prfaas.kvcache.layout import KVLayout, KVPiece, LayerKind
from prfaas.link.link_core import LinkCore
from prfaas.transfer import frame as kv
from prfaas.transfer.codec import CodecChooser, encode_planes
from prfaas.transfer.errors import TransferError
from prfaas.transfer.quantize import encode_int8
from prfaas.transfer.sealed_frame import FrameFormat

_MAX_REASON_BYTES = 1000
_LOOP_IS_DEAD_S = 5.0
"""Time past the deadline at which the loop, if it still ran, would long have failed the transfer."""


class Framer:
    """Numbers and encodes the frames of one attempt. `ready` is called on the loop when `take` has something."""

    def __init__(
        self,
        transfer: KVTransfer,
        layout: KVLayout,
        link: LinkCore,
        frames: FrameFormat,
        *,
        max_payload: Callable[[], int],
        ready: Callable[[], None],
        codecs: Sequence[kv.Codec],
        buffer_bytes: int,
        deadline_at: float,
    ) -> None:
        self._transfer = transfer
        self._layout = layout
        self._link = link
        self._frames = frames
        self._max_payload = max_payload
        self._ready = ready
        self._buffer_bytes = buffer_bytes
        self._deadline_at = deadline_at
        self._loop = asyncio.get_running_loop()
        self._hash = kv.transfer_hash(transfer.transfer_id)
        self._chooser = CodecChooser(codecs) if codecs else None
        self._thread = ThreadPoolExecutor(1, "kv framer") if codecs else None
        """Frames beside the engine, one window ahead of the link and no more: so the codec follows the link."""
        self._manifest: Future[None] | None = None
        self._abort: kv.OutgoingFrame | None = None
        self._digests: list[bytes] = []
        self.raw_bytes = 0
        self.total_bytes = 0
        self.lossy_frames = 0
        self.blocked_s = 0.0

        # Shared, under the lock of `_room`.
        self._room = threading.Condition()
        self._framed: list[kv.OutgoingFrame] = []
        self._woken = False
        self._held: deque[int] = deque()
        """Bytes of pieces that are still referred to, frame by frame."""
        self._held_bytes = 0
        self._ahead_bytes = 0
        """Bytes framed and not sent."""
        self._failure: TransferError | None = None

    @property
    def held_bytes(self) -> int:
        """Bytes of pieces that are not stored and hashed yet."""
        return self._held_bytes

    @property
    def frames(self) -> int:
        return len(self._digests)

    def put(self, piece: KVPiece) -> None:
        """Blocks the engine's thread while more than `buffer_bytes` are not stored yet. Raises TransferError, ValueError."""
        kv.check_piece(self._layout, piece)
        needed = self._layout.needed(piece.range.layer, self._transfer.prefill_tokens, self._transfer.from_token)
        if not needed.start <= piece.range.start < piece.range.end <= needed.end:
            raise ValueError(f"the transfer carries {needed}, but {piece.range} came")
        size = piece.size_bytes
        with self._room:
            since = time.monotonic()
            self._wait(lambda: not self._held_bytes or self._held_bytes + size <= self._buffer_bytes)
            self.blocked_s += time.monotonic() - since
            self._held_bytes += size
        if self._thread is None:
            self._frame(piece)
        else:
            self._thread.submit(self._frame_or_fail, piece)

    def put_opening(self) -> None:
        transfer = self._transfer
        opening = kv.TransferOpening(
            transfer_id=transfer.transfer_id,
            attempt=transfer.attempt,
            prefill_tokens=transfer.prefill_tokens,
            from_token=transfer.from_token,
            fingerprint=transfer.fingerprint,
            layout=self._layout,
        )
        self._append_message(kv.FrameKind.OPEN, msgspec.msgpack.encode(opening))

    def put_manifest(self, cached_tokens: int) -> None:
        """Appends the last frame; to be called after the last piece, without waiting. Raises TransferError."""
        self._raise_failure()
        if self._thread is None:
            self._append_manifest(cached_tokens)
        else:
            self._manifest = self._thread.submit(self._append_manifest, cached_tokens)

    async def settled(self) -> None:
        """Returns when everything that was put is framed. Raises the TransferError that kept it from being so."""
        if self._manifest is not None:
            await asyncio.wrap_future(self._manifest)

    def abort_frame(self, reason: str) -> kv.OutgoingFrame:
        """Frame that ends the object early, always the same one."""
        if self._abort is None:
            reason_slice = kv.message_slice(reason.encode()[:_MAX_REASON_BYTES])
            self._abort = self._encode(kv.FrameKind.ABORT, kv.Codec.RAW, reason_slice, kv.ABORT_POSITION)
        return self._abort

    # On the loop's thread.

    def take(self) -> list[kv.OutgoingFrame]:
        with self._room:
            frames, self._framed = self._framed, []
            self._woken = False
        return frames

    def sent(self, size_bytes: int) -> None:
        """Notes that a frame left for the first time."""
        with self._room:
            self._ahead_bytes -= size_bytes
            self._room.notify_all()

    def freed(self, frames: int) -> None:
        """Notes that the next `frames` in order are not referred to any more."""
        with self._room:
            for _ in range(frames):
                self._held_bytes -= self._held.popleft()
            self._room.notify_all()

    def fail(self, error: TransferError) -> None:
        """Raises `error` in every call that waits, or comes later; the first error stays."""
        with self._room:
            self._failure = self._failure or error
            self._room.notify_all()

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    # On the engine's thread, or our own.

    def _frame_or_fail(self, piece: KVPiece) -> None:
        try:
            self._frame(piece)
        except TransferError:
            pass  # It was told by `fail`.
        except Exception as error:
            self.fail(TransferError(FailureCode.ABORTED, f"a piece could not be framed: {error!r}"))

    def _frame(self, piece: KVPiece) -> None:
        limit = self._link.frame_bytes(self._max_payload() - 2 * kv.HEADER_BYTES)
        compressible = self._layout.layers[piece.range.layer].kind is not LayerKind.RECURRENT
        for part in kv.cut_piece(self._layout, piece, limit):
            codec = kv.Codec.RAW
            if self._chooser is not None:
                with self._room:
                    self._wait(lambda: self._ahead_bytes <= self._link.window_bytes)
                if compressible:
                    codec, part = self._coded(self._chooser, part)
            self._append(kv.FrameKind.DATA, codec, part)

    def _coded(self, chooser: CodecChooser, part: kv.FrameSlice) -> tuple[kv.Codec, kv.FrameSlice]:
        """Encodes the slice in the codec that the link deserves now; returns it as it is when that saves nothing."""
        codec = chooser.choose(self._link.estimate.bottleneck_bytes_per_s)
        since = time.perf_counter()
        encoded: bytes | None = None
        match codec:
            case kv.Codec.PLANES:
                encoded = encode_planes(part.parts, self._layout.dtype_bytes)
            case kv.Codec.INT8:
                encoded = encode_int8(part.parts, self._layout.dtype, self._layout.layers[part.range.layer].vector_dim)
        if encoded is None:
            return kv.Codec.RAW, part
        chooser.encoded(codec, part.raw_bytes, len(encoded), time.perf_counter() - since)
        if len(encoded) >= part.raw_bytes:
            return kv.Codec.RAW, part
        self.lossy_frames += codec is kv.Codec.INT8
        return codec, part._replace(parts=(memoryview(encoded),))

    def _append_manifest(self, cached_tokens: int) -> None:
        self._raise_failure()  # a piece before it may have failed on the framer's thread
        manifest = kv.Manifest(
            frames=self.frames,
            raw_bytes=self.raw_bytes,
            cached_tokens=cached_tokens,
            fingerprint=self._transfer.fingerprint,
            digest=kv.manifest_digest(self._digests),
        )
        self._append_message(kv.FrameKind.MANIFEST, msgspec.msgpack.encode(manifest))

    def _append_message(self, kind: kv.FrameKind, payload: bytes) -> None:
        self._append(kind, kv.Codec.RAW, kv.message_slice(payload))

    def _append(self, kind: kv.FrameKind, codec: kv.Codec, part: kv.FrameSlice) -> None:
        frame = self._encode(kind, codec, part, self.frames)
        self._digests.append(frame.digest)
        self.raw_bytes += part.raw_bytes
        self.total_bytes += frame.total_bytes
        with self._room:
            self._held.append(part.raw_bytes)
            self._ahead_bytes += frame.total_bytes
            self._framed.append(frame)
            wake, self._woken = not self._woken, True
        if wake:
            self._loop.call_soon_threadsafe(self._ready)

    def _encode(self, kind: kv.FrameKind, codec: kv.Codec, part: kv.FrameSlice, position: int) -> kv.OutgoingFrame:
        stored = sum(len(view) for view in part.parts)
        head = kv.FrameHead(
            kind, codec, self._transfer.attempt, position, part.range, part.offset, stored, part.raw_bytes, self._hash
        )  # fmt: skip
        return self._frames.encode(head, part.parts)

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Waits under the lock. The sender fails the transfer at its deadline, which ends the wait. Raises TransferError."""
        timeout_s = max(self._deadline_at - time.monotonic(), 0.0) + _LOOP_IS_DEAD_S
        if not self._room.wait_for(lambda: self._failure is not None or ready(), timeout_s):
            raise TransferError(FailureCode.TIMEOUT, "the event loop that sends the frames does not run any more")
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise TransferError(self._failure.code, str(self._failure))
