"""Events and instructions of SenderCore. `now_s` is any monotonic clock, in seconds."""

from typing import NamedTuple

from prfaas.contracts.codes import FailureCode


class FrameQueued(NamedTuple):
    size_bytes: int
    last: bool


class SendPermitted(NamedTuple):
    """The link lets `next_bytes` go."""

    now_s: float


class Acknowledged(NamedTuple):
    """The server holds the batch's frames 1..sequence."""

    batch: int
    sequence: int
    is_ping_reply: bool
    now_s: float


class BatchEnded(NamedTuple):
    """The batch is over, by its last frame or by a gap: `stored` frames of it are kept, the last at `stream_sequence`."""

    batch: int
    stored: int
    stream_sequence: int
    now_s: float


class Refused(NamedTuple):
    """The server refused a message of the batch; `code` is JetStream's, 503 when no stream takes the subject."""

    batch: int
    code: int
    message: str
    now_s: float


class StoredIs(NamedTuple):
    """Answer to QueryStored: the object holds frames 0..frames-1."""

    frames: int
    stream_sequence: int
    now_s: float


class Disconnected(NamedTuple):
    now_s: float


class Connected(NamedTuple):
    now_s: float


class AbortAsked(NamedTuple):
    reason: str


class Tick(NamedTuple):
    now_s: float


SenderEvent = (
    FrameQueued | SendPermitted | Acknowledged | BatchEnded | Refused | StoredIs | Disconnected | Connected | AbortAsked | Tick
)

# What the shell is told to do:


class SendFrame(NamedTuple):
    position: int
    batch: int
    sequence: int
    """Place in the batch, from 1."""
    commit: bool
    expected_last_sequence: int | None
    """Stream sequence that the object's subject must end with; only with a batch's first frame."""


class SendPing(NamedTuple):
    """Asks the server whether it holds the batch up to `sequence`."""

    batch: int
    sequence: int


class QueryStored(NamedTuple):
    """Looks at the object itself, for the server knows no such batch. Reported as StoredIs, or not at all."""


class Release(NamedTuple):
    """Frees the transfer's frames before this position: they will never be sent again."""

    before: int


class Rewound(NamedTuple):
    """Gives up what is on the way; frames from the last Release on are sent again."""


class Committed(NamedTuple):
    """Every frame is stored; the last at `stream_sequence`."""

    stream_sequence: int


class Failed(NamedTuple):
    code: FailureCode
    message: str


SenderInstruction = SendFrame | SendPing | QueryStored | Release | Rewound | Committed | Failed
