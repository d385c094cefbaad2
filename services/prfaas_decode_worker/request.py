"""State of one request in the decode worker, from its acceptance to its last token."""

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from msgspec.structs import replace

from prfaas.contracts.kv import TransferReport
from prfaas.contracts.terms import Outcome
from prfaas.contracts.to_decode import Generate, Sampling
from prfaas.contracts.to_gateway import PrefillTimes


class Delta(Protocol):
    """Text that became certain."""

    @property
    def text(self) -> str: ...
    @property
    def stopped(self) -> bool:
        """Whether a stop string ends the answer here."""
        ...


class Text(Protocol):
    """The text of one answer, which grows by tokens."""

    def push(self, token_id: int) -> Delta:
        """Takes one token. Returns what is certain with it."""
        ...

    def flush(self) -> Delta:
        """Returns what was held back; no token follows."""
        ...

    def offset_chars(self, token_id: int) -> int:
        """Returns the character at which the text of the next token, `token_id`, begins."""
        ...


class Vocabulary(Protocol):
    """Texts of tokens. Any method may raise, which ends the request that it was called for."""

    def new_text(self, sampling: Sampling) -> Text: ...
    def token_bytes(self, token_id: int) -> bytes: ...


class Phase(Enum):
    """How far a request is: it waits for a slot, for its KV, or for its next token."""

    WAITING = auto()
    TRANSFER = auto()
    RUNNING = auto()


@dataclass(slots=True)
class Request:
    """State of one accepted request."""

    generate: Generate
    prompt: list[int]
    text: Text
    cache_bytes: int
    first_token_due_at: float
    next_token: int
    outcome: Outcome
    reason: str
    prefill_site: str
    phase: Phase = Phase.WAITING
    attempt: int = 0
    attempts_at_site: int = 0
    engine_failures: int = 0
    """Attempts that ended in FailureCode.ENGINE."""
    events_sent: int = 0
    generated: int = 0
    joined_at: float = 0.0
    """Moment it joined the batch, by the clock of the events."""
    verified_unix_s: float = 0.0
    prefill_ended_unix_s: float = 0.0
    report: TransferReport = field(default_factory=TransferReport)
    times: PrefillTimes = field(default_factory=PrefillTimes)

    @property
    def request_id(self) -> str:
        return self.generate.request_id

    @property
    def total_tokens(self) -> int:
        return len(self.prompt) + self.generate.sampling.max_tokens

    def prefill_times(self) -> PrefillTimes:
        if not self.verified_unix_s or not self.prefill_ended_unix_s:
            return self.times
        return replace(self.times, residual_s=max(0.0, self.verified_unix_s - self.prefill_ended_unix_s))

    def next_sequence(self) -> int:
        """Returns the number of its next event, and counts it as sent."""
        self.events_sent += 1
        return self.events_sent - 1

    def too_late(self, why: str) -> str:
        return f"no first token within {self.generate.ttft_deadline_s:g} s: {why}"
