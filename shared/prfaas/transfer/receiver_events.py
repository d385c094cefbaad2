"""Events and instructions of ReceiverCore. `now_s` is any monotonic clock, in seconds."""

from typing import NamedTuple

from prfaas.contracts.codes import FailureCode
from prfaas.contracts.kv import TransferReport
from prfaas.kvcache.layout import KVPiece
from prfaas.transfer.frame import IncomingFrame


class FrameArrived(NamedTuple):
    """A frame whose own checksum is right."""

    frame: IncomingFrame
    stream_sequence: int
    now_s: float


class FrameDamaged(NamedTuple):
    """A message that is no intact frame."""

    message: str
    now_s: float


class DeliveryLost(NamedTuple):
    """Messages may have been lost between the server and us: a reconnect, a dead consumer."""

    now_s: float


class Tick(NamedTuple):
    now_s: float


ReceiverEvent = FrameArrived | FrameDamaged | DeliveryLost | Tick

# What the shell is told to do:


class Install(NamedTuple):
    piece: KVPiece
    """Views into the message: copy before its buffer is reused."""


class Rewind(NamedTuple):
    """Reads again, from this sequence of the stream on (0: from the object's start)."""

    stream_sequence: int


class Verified(NamedTuple):
    report: TransferReport


class Failed(NamedTuple):
    code: FailureCode
    message: str


ReceiverInstruction = Install | Rewind | Verified | Failed
