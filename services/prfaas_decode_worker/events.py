"""What the decode worker's core hears and what it orders."""

from dataclasses import dataclass

from prfaas.contracts.terms import Outcome
from prfaas.contracts.to_decode import Generate
from prfaas.contracts.to_gateway import GenerateAccepted, GenerateEvent, GenerateRefused, TransferReport
from prfaas.contracts.to_scheduler import AttemptEnded
from prfaas.engine.protocol import SampledToken


@dataclass(frozen=True, slots=True)
class GenerateAsked:
    now_s: float
    generate: Generate


@dataclass(frozen=True, slots=True)
class CancelAsked:
    now_s: float
    request_id: str


@dataclass(frozen=True, slots=True)
class AttemptVerified:
    """Every byte of the attempt is checked and installed."""

    now_s: float
    request_id: str
    attempt: int
    verified_unix_s: float
    bytes: int = 0
    frames: int = 0
    lossy_frames: int = 0
    cached_tokens: int = 0
    """Of the prompt's prefix, that the prefill did not compute."""
    reused_tokens: int = 0
    """Whose KV in full layers was here already, and did not come."""
    saved_bytes: int = 0
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True)
class PrefillTimed:
    """What the prefill worker says of its part. May come after the KV: it travels by another connection."""

    now_s: float
    request_id: str
    attempt: int
    queue_s: float
    prefill_s: float
    ended_unix_s: float


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    now_s: float
    request_id: str
    attempt: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class StepDone:
    now_s: float
    tokens: tuple[tuple[str, SampledToken], ...]


@dataclass(frozen=True, slots=True)
class StepFailed:
    """The engine could not do the step: all its requests fail, the others go on."""

    now_s: float
    request_ids: tuple[str, ...]
    message: str


@dataclass(frozen=True, slots=True)
class Tick:
    now_s: float


@dataclass(frozen=True, slots=True)
class DrainAsked:
    now_s: float


@dataclass(frozen=True, slots=True)
class DrainGivenUp:
    """New requests are welcome again."""

    now_s: float


Event = (
    GenerateAsked
    | CancelAsked
    | AttemptVerified
    | AttemptFailed
    | PrefillTimed
    | StepDone
    | StepFailed
    | Tick
    | DrainAsked
    | DrainGivenUp
)

# What the shell is told to do:


@dataclass(frozen=True, slots=True)
class Answer:
    request_id: str
    answer: GenerateAccepted | GenerateRefused


@dataclass(frozen=True, slots=True)
class BeginAttempt:
    """Reserve a fresh sequence, install what is here already, open the reader, send the job to `prefill_site`, and report within
    `timeout_s`."""

    request_id: str
    transfer_id: str
    attempt: int
    prefill_site: str
    prefill_worker: str | None
    """None: whoever is free first."""
    token_ids: tuple[int, ...]
    """All that is to be prefilled; empty for a prompt of one token, which needs no transfer."""
    total_tokens: int
    tenant: str
    timeout_s: float
    deferred: bool = False
    """Only a worker that has nothing else to do is to take it."""


@dataclass(frozen=True, slots=True)
class EndAttempt:
    """Close the reader, cancel the prefill, drop the attempt's sequence. The attempt is not heard of again."""

    request_id: str
    attempt: int
    prefill_site: str


@dataclass(frozen=True, slots=True)
class Emit:
    reply_to: str
    event: GenerateEvent


@dataclass(frozen=True, slots=True)
class Release:
    """The request is over and holds nothing any more; `outcome` and `ended` are what it is counted under."""

    request_id: str
    outcome: Outcome
    prefill_site: str
    report: TransferReport
    completion_tokens: int
    decode_s: float
    """From joining the batch; 0 when it never did."""
    ended: str
    """A finish reason, `cancelled`, or the code of its failure."""


@dataclass(frozen=True, slots=True)
class TellScheduler:
    """Best effort: what the scheduler does not hear, its own clock tells it."""

    ended: AttemptEnded


Instruction = Answer | BeginAttempt | EndAttempt | Emit | Release | TellScheduler
