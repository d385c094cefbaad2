"""Events that the decode worker's core handles, and the instructions that it gives."""

from dataclasses import dataclass

from prfaas.contracts.kv import PrefixSource, TransferReport
from prfaas.contracts.terms import Outcome
from prfaas.contracts.to_decode import Generate
from prfaas.contracts.to_gateway import GenerateAccepted, GenerateEvent, GenerateRefused, PrefillTimes
from prfaas.contracts.to_scheduler import AttemptNews
from prfaas.engine.protocol import SampledToken
from prfaas_decode_worker.prefill_watch_core import Holder


@dataclass(frozen=True, slots=True)
class GenerateAsked:
    now_s: float
    generate: Generate

    @property
    def request_id(self) -> str:
        return self.generate.request_id


@dataclass(frozen=True, slots=True)
class CancelAsked:
    now_s: float
    request_id: str


@dataclass(frozen=True, slots=True)
class AttemptVerified:
    """All bytes of the attempt are checked and installed."""

    now_s: float
    request_id: str
    attempt: int
    verified_unix_s: float
    report: TransferReport


@dataclass(frozen=True, slots=True)
class PrefillTimed:
    """The prefill worker's account of its part. It may come after the KV, since it travels by another connection."""

    now_s: float
    request_id: str
    attempt: int
    queue_s: float
    prefill_s: float
    ended_unix_s: float
    chunks: tuple[tuple[float, float], ...] = ()
    """(seconds since the prefill's start, prompt tokens computed by then)."""


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    now_s: float
    request_id: str
    attempt: int
    code: str
    message: str
    died: Holder | None = None
    """The prefill worker that died while it computed it; None when none did."""
    retry_after_s: float | None = None
    """Time after which the queue that refused it may have room; None where none did."""


@dataclass(frozen=True, slots=True)
class WorkerAnswered:
    """A prefill worker that was taken for dead is there."""

    now_s: float
    worker: Holder


@dataclass(frozen=True, slots=True)
class StepDone:
    now_s: float
    tokens: tuple[tuple[str, SampledToken], ...]


@dataclass(frozen=True, slots=True)
class StepFailed:
    """The engine cannot compute these rows. Their requests fail, the others go on."""

    now_s: float
    request_ids: tuple[str, ...]
    message: str


@dataclass(frozen=True, slots=True)
class RequestBroken:
    """The shell could not carry out an instruction for this request, which fails alone."""

    now_s: float
    request_id: str
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
    | WorkerAnswered
    | PrefillTimed
    | StepDone
    | StepFailed
    | RequestBroken
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
    """Reserve a fresh sequence and install what is here already. Open the receiver, send the job to `prefill_site`, and report
    within `timeout_s`."""

    request_id: str
    transfer_id: str
    attempt: int
    prefill_site: str
    prefill_worker: str | None
    """None: any worker of the site, the first that is free."""
    token_ids: tuple[int, ...]
    """Tokens to prefill, all but the prompt's last one. Empty for a prompt of one token, which needs no transfer."""
    total_tokens: int
    tenant: str
    timeout_s: float
    admitted: bool = False
    """True if the queue may refuse it no more."""
    cache_scope: str = ""
    pull: PrefixSource | None = None
    """Source from which the prefill worker may pull the prompt's prefix."""


@dataclass(frozen=True, slots=True)
class EndAttempt:
    """Close the receiver, cancel the prefill, drop the attempt's sequence. No event of the attempt follows."""

    request_id: str
    attempt: int
    prefill_site: str


@dataclass(frozen=True, slots=True)
class Emit:
    reply_to: str
    event: GenerateEvent


@dataclass(frozen=True, slots=True)
class Release:
    """Forget the request, which is over. `outcome` and `ended` are what it is counted under."""

    request_id: str
    outcome: Outcome
    prefill_site: str
    report: TransferReport
    times: PrefillTimes
    completion_tokens: int
    decode_s: float
    """Time since it joined the batch, s; 0 when it never did."""
    ended: str
    """The finish reason, `cancelled`, or the code of the failure."""


@dataclass(frozen=True, slots=True)
class TellScheduler:
    """Tell the scheduler how an attempt ended. Best effort: its own clock tells it what it does not hear."""

    news: AttemptNews


Instruction = Answer | BeginAttempt | EndAttempt | Emit | Release | TellScheduler


def request_id_of(instruction: Instruction) -> str:
    """Returns the request that an instruction is for."""
    match instruction:
        case Emit(_, event):
            return event.request_id
        case TellScheduler(news):
            return news.request_id
        case _:
            return instruction.request_id
