"""One request in the decode worker, from its acceptance to its last token."""

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from msgspec.structs import replace

from prfaas.contracts.terms import Outcome
from prfaas.contracts.to_decode import Generate, Sampling
from prfaas.contracts.to_gateway import TransferReport


class Delta(Protocol):
    @property
    def text(self) -> str: ...
    @property
    def stopped(self) -> bool: ...


class Text(Protocol):
    def push(self, token_id: int) -> Delta: ...
    def flush(self) -> str: ...


class Vocabulary(Protocol):
    def new_text(self, sampling: Sampling) -> Text: ...
    def token_text(self, token_id: int) -> str: ...


class Phase(Enum):
    WAITING = auto()
    TRANSFER = auto()
    RUNNING = auto()


@dataclass(slots=True)
class Request:
    generate: Generate
    prompt: list[int]
    text: Text
    cache_bytes: int
    deadline_s: float
    """For the first token."""
    next_token: int
    outcome: Outcome
    reason: str
    prefill_site: str
    phase: Phase = Phase.WAITING
    attempt: int = 0
    attempts_at_site: int = 0
    events_sent: int = 0
    generated: int = 0
    joined_s: float = 0.0
    verified_unix_s: float = 0.0
    prefill_ended_unix_s: float = 0.0
    report: TransferReport = field(default_factory=TransferReport)

    @property
    def request_id(self) -> str:
        return self.generate.request_id

    @property
    def total_tokens(self) -> int:
        return len(self.prompt) + self.generate.sampling.max_tokens

    def transfer_report(self) -> TransferReport:
        if not self.verified_unix_s or not self.prefill_ended_unix_s:
            return self.report
        return replace(self.report, residual_s=max(0.0, self.verified_unix_s - self.prefill_ended_unix_s))

    def next_sequence(self) -> int:
        """The number of its next event."""
        self.events_sent += 1
        return self.events_sent - 1

    def too_late(self, why: str) -> str:
        return f"no first token within {self.generate.ttft_deadline_s:g} s: {why}"
