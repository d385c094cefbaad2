"""The sending side of one attempt, as a pure state machine over JetStream's fast ingest.

Frames go out in batches of the server's fast-ingest protocol with `gap=fail`: the server acknowledges how many it holds
without a gap, and ends the batch at the first lost one with that exact count. So after any interruption the sender knows where
to go on, and sends at most one window again. Each batch's first frame also carries the expected last sequence of the object's
subject: a second sender of the same attempt, or a late frame of a dead connection, is refused by the server.
"""

from collections import deque
from enum import StrEnum

from prfaas.contracts.codes import FailureCode
from prfaas.transfer.sender_events import (
    AbortAsked,
    Acknowledged,
    BatchEnded,
    Committed,
    Connected,
    Disconnected,
    Failed,
    FrameQueued,
    QueryStored,
    Refused,
    Release,
    Rewound,
    SenderEvent,
    SenderInstruction,
    SendFrame,
    SendPermitted,
    SendPing,
    StoredIs,
    Tick,
)

UNKNOWN_BATCH = 10208
WRONG_LAST_SEQUENCE = 10071
NO_RESPONDERS = 503
_KEEPALIVE_S = 3.0
"""Interval of pings while nothing is to be sent: the server forgets a batch that is silent for 10 s."""


class SenderState(StrEnum):
    STREAMING = "streaming"
    PAUSED = "paused"
    """Something was lost or may be; nothing is sent until the server says what it holds."""
    COMMITTED = "committed"
    FAILED = "failed"


class SenderCore:
    def __init__(self, *, now_s: float, deadline_at: float, idle_timeout_s: float, ping_after_s: float = 1.0) -> None:
        """`deadline_at` is a moment on the clock of `now_s`. Without progress for `idle_timeout_s` the attempt fails."""
        self.state = SenderState.STREAMING
        self.queued = 0
        self.next = 0
        self.acked = 0
        self.outstanding_bytes = 0
        """Sent and not acknowledged: what counts against the link's window."""
        self.resent_frames = 0
        self._deadline_at = deadline_at
        self._idle_timeout_s = idle_timeout_s
        self._ping_after_s = ping_after_s
        self._sizes: deque[int] = deque()
        """Sizes of frames acked..queued-1."""
        self._closed = False
        self.batch = 1
        self._base = 0
        self._expected_last_sequence = 0
        self._progress_at = now_s
        self._asked_at = now_s
        self._must_query = False

    @property
    def next_bytes(self) -> int:
        """Size of the frame that would be sent next; 0 when there is none to send now."""
        if self.state is not SenderState.STREAMING or self.next == self.queued:
            return 0
        return self._sizes[self.next - self.acked]

    @property
    def finished(self) -> bool:
        return self.state in (SenderState.COMMITTED, SenderState.FAILED)

    def handle(self, event: SenderEvent) -> list[SenderInstruction]:
        if self.finished:
            return []
        match event:
            case FrameQueued(size_bytes, last):
                assert not self._closed, "a frame after the last one"
                self._sizes.append(size_bytes)
                self.queued += 1
                self._closed = last
                return []
            case SendPermitted(now_s):
                return self._send(now_s)
            case Acknowledged(batch, sequence, is_ping_reply, now_s):
                if batch != self.batch:
                    return []
                if is_ping_reply and not self._must_query:
                    self.state = SenderState.STREAMING
                return self._advance(self._base + sequence, now_s)
            case BatchEnded(batch, stored, stream_sequence, now_s):
                if batch != self.batch:
                    return []
                if stored == 0:
                    # A ping for sequence 1 makes a server that has forgotten the batch open an empty one, and end it.
                    return self._query(now_s)
                return self._restart_at(self._base + stored, stream_sequence, now_s)
            case Refused(batch, code, message, now_s):
                return self._refused(batch, code, message, now_s)
            case StoredIs(frames, stream_sequence, now_s):
                return self._restart_at(frames, stream_sequence, now_s) if self._must_query else []
            case Disconnected(_):
                self.state = SenderState.PAUSED
                return []
            case Connected(now_s):
                return self._ask(now_s)
            case AbortAsked(reason):
                return self._fail(FailureCode.ABORTED, reason)
            case Tick(now_s):
                return self._tick(now_s)

    def _send(self, now_s: float) -> list[SenderInstruction]:
        assert self.next_bytes, "permitted without a frame to send"
        if self.next == self.acked:
            self._progress_at = max(self._progress_at, now_s)
        self.outstanding_bytes += self.next_bytes
        position = self.next
        self.next += 1
        self._asked_at = now_s
        first = position == self._base
        return [
            SendFrame(
                position=position,
                batch=self.batch,
                sequence=position - self._base + 1,
                commit=self._closed and self.next == self.queued,
                expected_last_sequence=self._expected_last_sequence if first else None,
            )
        ]

    def _advance(self, acked: int, now_s: float) -> list[SenderInstruction]:
        if not self.acked < acked <= self.next:
            return []
        for _ in range(acked - self.acked):
            self.outstanding_bytes -= self._sizes.popleft()
        self.acked = acked
        self._progress_at = now_s
        return [Release(acked)]

    def _restart_at(self, stored: int, stream_sequence: int, now_s: float) -> list[SenderInstruction]:
        if not self.acked <= stored <= self.next:
            return self._fail(
                FailureCode.BROKER,
                f"the server holds {stored} frames of this object, but {self.acked} were acknowledged and {self.next} sent",
            )
        instructions = self._advance(stored, now_s)
        if self._closed and stored == self.queued:
            self.state = SenderState.COMMITTED
            return [*instructions, Committed(stream_sequence)]
        self.resent_frames += self.next - stored
        self.outstanding_bytes = 0
        self.next = self._base = stored
        self.batch += 1
        self._expected_last_sequence = stream_sequence
        self._must_query = False
        self.state = SenderState.STREAMING
        return [*instructions, Rewound()]

    def _refused(self, batch: int, code: int, message: str, now_s: float) -> list[SenderInstruction]:
        if batch != self.batch:
            return []
        if code == NO_RESPONDERS:
            # The link is down, or the stream is not there (yet): ask again until the idle deadline.
            self.state = SenderState.PAUSED
            return []
        claimed = code == WRONG_LAST_SEQUENCE and self._base == 0 and self.acked == 0
        if claimed or code not in (UNKNOWN_BATCH, WRONG_LAST_SEQUENCE):
            owner = "another sender already fills this object: " if claimed else ""
            return self._fail(FailureCode.BROKER, f"{owner}{message} (JetStream error {code})")
        return self._query(now_s)

    def _query(self, now_s: float) -> list[SenderInstruction]:
        self.state = SenderState.PAUSED
        self._must_query = True
        self._asked_at = now_s
        return [QueryStored()]

    def _ask(self, now_s: float) -> list[SenderInstruction]:
        self._asked_at = now_s
        if self._must_query:
            return [QueryStored()]
        if self.next == self._base:
            self.state = SenderState.STREAMING
            return []
        return [SendPing(self.batch, self.next - self._base)]

    def _tick(self, now_s: float) -> list[SenderInstruction]:
        if now_s >= self._deadline_at:
            return self._fail(FailureCode.TIMEOUT, f"not sent by its deadline: {self.acked} of {self.queued} frames are stored")
        waiting = self.acked < self.next or self.state is SenderState.PAUSED
        if waiting and now_s - self._progress_at >= self._idle_timeout_s:
            return self._fail(
                FailureCode.TIMEOUT,
                f"no progress for {self._idle_timeout_s:g} s: {self.acked} of {self.queued} frames are stored",
            )
        quiet_s = self._ping_after_s if waiting else _KEEPALIVE_S
        if now_s - self._asked_at >= quiet_s:
            return self._ask(now_s)
        return []

    def _fail(self, code: FailureCode, message: str) -> list[SenderInstruction]:
        self.state = SenderState.FAILED
        return [Failed(code, message)]

    def validate(self) -> None:
        assert 0 <= self._base <= self.next <= self.queued
        assert self.acked <= self.next
        assert len(self._sizes) == self.queued - self.acked
        assert self.outstanding_bytes == sum(list(self._sizes)[: self.next - self.acked])
        assert self.state is not SenderState.COMMITTED or (self._closed and self.acked == self.queued)
