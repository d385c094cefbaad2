"""Events of a link's estimator, and its instructions. `now_s` is a moment of any monotonic clock, in seconds."""

from dataclasses import dataclass
from enum import StrEnum

from prfaas.contracts.to_scheduler import LinkEstimate


class Probe(StrEnum):
    PING = "ping"
    TRAIN = "train"
    DEEP_TRAIN = "deep_train"


@dataclass(frozen=True, slots=True)
class Tick:
    now_s: float
    busy: bool = False
    """Transfers are under way."""


@dataclass(frozen=True, slots=True)
class PongHeard:
    now_s: float
    rtt_s: float


@dataclass(frozen=True, slots=True)
class TrainAnswered:
    now_s: float
    base_s: float
    """Round trip of a tiny message on the train's connection."""
    train_bytes: int
    train_s: float
    """Time from the first byte sent to the reply to the last."""


@dataclass(frozen=True, slots=True)
class DeepTrainAnswered:
    now_s: float
    train_bytes: int
    tail_bytes_per_s: float
    """Rate of its last part as the receiver saw it; 0: nothing of use."""


@dataclass(frozen=True, slots=True)
class TransferReported:
    now_s: float
    goodput_bytes_per_s: float


@dataclass(frozen=True, slots=True)
class ProbeFailed:
    """Says that a probe got no answer in time."""

    now_s: float
    probe: Probe


Event = Tick | PongHeard | TrainAnswered | DeepTrainAnswered | TransferReported | ProbeFailed


@dataclass(frozen=True, slots=True)
class SendPing:
    pass


@dataclass(frozen=True, slots=True)
class SendTrain:
    parts: int
    part_bytes: int
    deep: bool = False


@dataclass(frozen=True, slots=True)
class Announce:
    """Puts the estimate where the destination's scheduler sees it; what the kernel knows of the link is to be filled in."""

    estimate: LinkEstimate


Instruction = SendPing | SendTrain | Announce
