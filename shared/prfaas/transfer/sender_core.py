"""The sending side of one attempt, as a pure state machine over JetStream's fast ingest.

Frames go out in batches of the server's fast-ingest protocol with `gap=fail`: the server acknowledges how many it holds
without a gap, and ends the batch at the first lost one with that exact count. So after any interruption the sender knows where
to go on, and sends at most one window again. Each batch's first frame also carries the expected last sequence of the object's
subject: a second writer of the same attempt, or a late frame of a dead connection, is refused by the server.
"""

from collections import deque
from enum import StrEnum
from typing import NamedTuple

from prfaas.contracts.codes import FailureCode

UNKNOWN_BATCH = 10208
WRONG_LAST_SEQUENCE = 10071
_KEEPALIVE_S = 3.0
"""The server forgets a batch that is silent for 10 s."""


# Events: facts from outside. `now` is any monotonic clock, in seconds.
class FrameQueued(NamedTuple):
    size_bytes: int
    last: bool


class SendPermitted(NamedTuple):
    """The link lets `next_bytes` go."""

    now: float


class Acknowledged(NamedTuple):
    """The server holds the batch's frames 1..sequence."""

    batch: int
    sequence: int
    is_ping_reply: bool
    now: float


class BatchEnded(NamedTuple):
    """The batch is over, by its last frame or by a gap: `stored` frames of it are kept, the last at `stream_sequence`."""

    batch: int
    stored: int
    stream_sequence: int
    now: float


class Refused(NamedTuple):
    batch: int
    code: int
    message: str
    now: float


class StoredIs(NamedTuple):
    """Answer to QueryStored: the object holds frames 0..frames-1."""

    frames: int
    stream_sequence: int
    now: float


class Disconnected(NamedTuple):
    now: float


class Connected(NamedTuple):
    now: float


class AbortAsked(NamedTuple):
    reason: str


class Tick(NamedTuple):
    now: float


SenderEvent = (
    FrameQueued | SendPermitted | Acknowledged | BatchEnded | Refused | StoredIs | Disconnected | Connected | AbortAsked | Tick
)


# Instructions: orders to the shell.
class SendFrame(NamedTuple):
    position: int
    batch: int
    sequence: int
    """In the batch, from 1."""
    commit: bool
    expected_last_sequence: int | None
    """Of the object's subject; only with a batch's first frame."""


class SendPing(NamedTuple):
    """Asks the server whether it holds the batch up to `sequence`."""

    batch: int
    sequence: int


class QueryStored(NamedTuple):
    """The server knows no such batch: look at the object itself. Reported as StoredIs, or not at all."""


class Release(NamedTuple):
    """These first frames of the transfer will never be sent again."""

    before: int


class Rewound(NamedTuple):
    """What was on the way is lost; frames from the last Release on are sent again."""


class Committed(NamedTuple):
    """Every frame is stored; the last at `stream_sequence`."""

    stream_sequence: int


class Failed(NamedTuple):
    code: FailureCode
    message: str


SenderInstruction = SendFrame | SendPing | QueryStored | Release | Rewound | Committed | Failed


class SenderState(StrEnum):
    STREAMING = "streaming"
    PAUSED = "paused"
    """Something was lost or may be; nothing is sent until the server says what it holds."""
    COMMITTED = "committed"
    FAILED = "failed"


class SenderCore:
    def __init__(self, *, now: float, deadline: float, idle_timeout_s: float, ping_after_s: float = 1.0) -> None:
        """`deadline` is a time on the same clock as `now`. Without progress for `idle_timeout_s` the attempt fails."""
        self.state = SenderState.STREAMING
        self.queued = 0
        self.next = 0
        self.acked = 0
        self.outstanding_bytes = 0
        """Sent and not acknowledged: what counts against the link's window."""
        self.resent_frames = 0
        self._deadline = deadline
        self._idle_timeout_s = idle_timeout_s
        self._ping_after_s = ping_after_s
        self._sizes: deque[int] = deque()
        """Of frames acked..queued-1."""
        self._closed = False
        self.batch = 1
        self._base = 0
        self._expected_last_sequence = 0
        self._progress_at = now
        self._asked_at = now
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
            case SendPermitted(now):
                return self._send(now)
            case Acknowledged(batch, sequence, is_ping_reply, now):
                if batch != self.batch:
                    return []
                if is_ping_reply and not self._must_query:
                    self.state = SenderState.STREAMING
                return self._advance(self._base + sequence, now)
            case BatchEnded(batch, stored, stream_sequence, now):
                if batch != self.batch:
                    return []
                if stored == 0:
                    # A ping for sequence 1 makes a server that has forgotten the batch open an empty one, and end it.
                    return self._query(now)
                return self._restart_at(self._base + stored, stream_sequence, now)
            case Refused(batch, code, message, now):
                return self._refused(batch, code, message, now)
            case StoredIs(frames, stream_sequence, now):
                return self._restart_at(frames, stream_sequence, now) if self._must_query else []
            case Disconnected(_):
                self.state = SenderState.PAUSED
                return []
            case Connected(now):
                return self._ask(now)
            case AbortAsked(reason):
                return self._fail(FailureCode.ABORTED, reason)
            case Tick(now):
                return self._tick(now)

    def _send(self, now: float) -> list[SenderInstruction]:
        assert self.next_bytes, "permitted without a frame to send"
        if self.next == self.acked:
            self._progress_at = max(self._progress_at, now)
        self.outstanding_bytes += self.next_bytes
        position = self.next
        self.next += 1
        self._asked_at = now
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

    def _advance(self, acked: int, now: float) -> list[SenderInstruction]:
        if not self.acked < acked <= self.next:
            return []
        for _ in range(acked - self.acked):
            self.outstanding_bytes -= self._sizes.popleft()
        self.acked = acked
        self._progress_at = now
        return [Release(acked)]

    def _restart_at(self, stored: int, stream_sequence: int, now: float) -> list[SenderInstruction]:
        if not self.acked <= stored <= self.next:
            return self._fail(
                FailureCode.BROKER,
                f"the server holds {stored} frames of this object, but {self.acked} were acknowledged and {self.next} sent",
            )
        instructions = self._advance(stored, now)
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

    def _refused(self, batch: int, code: int, message: str, now: float) -> list[SenderInstruction]:
        if batch != self.batch:
            return []
        if code == 503:
            # The link is down, or the stream is not there (yet): ask again until the idle deadline.
            self.state = SenderState.PAUSED
            return []
        claimed = code == WRONG_LAST_SEQUENCE and self._base == 0 and self.acked == 0
        if claimed or code not in (UNKNOWN_BATCH, WRONG_LAST_SEQUENCE):
            owner = "another writer already fills this object: " if claimed else ""
            return self._fail(FailureCode.BROKER, f"{owner}{message} (JetStream error {code})")
        return self._query(now)

    def _query(self, now: float) -> list[SenderInstruction]:
        self.state = SenderState.PAUSED
        self._must_query = True
        self._asked_at = now
        return [QueryStored()]

    def _ask(self, now: float) -> list[SenderInstruction]:
        self._asked_at = now
        if self._must_query:
            return [QueryStored()]
        if self.next == self._base:
            self.state = SenderState.STREAMING
            return []
        return [SendPing(self.batch, self.next - self._base)]

    def _tick(self, now: float) -> list[SenderInstruction]:
        if now >= self._deadline:
            return self._fail(FailureCode.TIMEOUT, f"not sent by its deadline: {self.acked} of {self.queued} frames are stored")
        waiting = self.acked < self.next or self.state is SenderState.PAUSED
        if waiting and now - self._progress_at >= self._idle_timeout_s:
            return self._fail(
                FailureCode.TIMEOUT,
                f"no progress for {self._idle_timeout_s:g} s: {self.acked} of {self.queued} frames are stored",
            )
        quiet_s = self._ping_after_s if waiting else _KEEPALIVE_S
        if now - self._asked_at >= quiet_s:
            return self._ask(now)
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
