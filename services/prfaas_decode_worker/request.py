"""State of one request in the decode worker, from its acceptance to its last token."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from msgspec.structs import replace

from prfaas.contracts.kv import TransferReport
from prfaas.contracts.terms import FinishReason, Outcome
from prfaas.contracts.to_decode import Generate, Sampling
from prfaas.contracts.to_gateway import Failed, Finished, PrefillTimes, Started
from prfaas.contracts.wire import unpack_tokens


class Delta(Protocol):
    """Text that became certain."""

    @property
    def text(self) -> str: ...
    @property
    def stopped(self) -> bool:
        """True when a stop string ends the answer here."""
        ...


class Text(Protocol):
    """The text of one answer, which grows by tokens."""

    def push(self, token_id: int) -> Delta:
        """Takes one token. Returns what is certain with it."""
        ...

    def flush(self) -> Delta:
        """Returns what was held back; no token follows."""
        ...

    @property
    def stop(self) -> str:
        """Stop string that has ended the text; empty where none has."""
        ...

    def offset_chars(self, token_id: int) -> int:
        """Returns the character at which the text of the next token, `token_id`, begins."""
        ...


class Vocabulary(Protocol):
    """Texts of tokens. Any method may raise, which ends the request that it was called for."""

    def new_text(self, sampling: Sampling) -> Text: ...
    def token_bytes(self, token_id: int) -> bytes: ...


class Phase(Enum):
    """Progress of a request: it waits for a slot, for its KV, or for its next token."""

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
    sent: tuple[int, ...]
    """Tokens of the answer that an earlier decode worker has sent. They count as generated."""
    again: deque[int]
    """Those of them that the batch has still to compute again: step by step, so that its KV is the same to the last bit."""
    outcome: Outcome
    reason: str
    prefill_site: str
    phase: Phase = Phase.WAITING
    attempt: int = 0
    attempts_at_site: int = 0
    engine_failures: int = 0
    """Attempts that ended in FailureCode.ENGINE."""
    uncounted_failures: int = 0
    """Attempts that ended in FailureCode.BROKER or WORKER_LOST, up to as many as do not count."""
    admitted: bool = False
    """An attempt was accepted into a queue, or an earlier decode worker has begun the answer: it is refused no more."""
    events_sent: int = 0
    generated: int = 0
    joined_at: float = 0.0
    """Moment it joined the batch, by the clock of the events."""
    verified_unix_s: float = 0.0
    prefill_ended_unix_s: float = 0.0
    report: TransferReport = field(default_factory=TransferReport)
    times: PrefillTimes = field(default_factory=PrefillTimes)

    @classmethod
    def of(cls, generate: Generate, vocabulary: Vocabulary, sequence_bytes: Callable[[int], int], now_s: float) -> "Request":
        """Returns the request as it comes. Raises BadMessageError, and what the vocabulary or `sequence_bytes` raises."""
        prompt, sent = unpack_tokens(generate.token_ids), unpack_tokens(generate.sent_token_ids)
        return cls(
            generate=generate,
            prompt=prompt,
            text=vocabulary.new_text(generate.sampling),
            cache_bytes=sequence_bytes(len(prompt) + generate.sampling.max_tokens),
            first_token_due_at=now_s + generate.ttft_deadline_s,
            next_token=prompt[-1] if prompt else 0,
            sent=tuple(sent),
            again=deque(sent),
            outcome=generate.placement.outcome,
            reason=generate.placement.reason,
            prefill_site=generate.placement.prefill_site,
            admitted=bool(sent),
        )

    @property
    def request_id(self) -> str:
        return self.generate.request_id

    @property
    def tokens_left(self) -> int:
        """Most tokens that are to be generated from now on."""
        return self.generate.sampling.max_tokens - self.generated

    @property
    def total_tokens(self) -> int:
        return len(self.prompt) + self.generate.sampling.max_tokens

    @property
    def has_token(self) -> bool:
        """Tells whether a token that is new to the client has been computed here."""
        return self.generated > len(self.sent)

    def prefill_times(self) -> PrefillTimes:
        if not self.verified_unix_s or not self.prefill_ended_unix_s:
            return self.times
        return replace(self.times, residual_s=max(0.0, self.verified_unix_s - self.prefill_ended_unix_s))

    def next_sequence(self) -> int:
        """Returns the number of its next event, and counts it as sent."""
        self.events_sent += 1
        return self.events_sent - 1

    def started(self, cached_tokens: int) -> Started:
        """Returns its next event, numbered after the last, as the two below do."""
        return Started(
            request_id=self.request_id,
            sequence=self.next_sequence(),
            prefill_site=self.prefill_site,
            outcome=self.outcome,
            reason=self.reason,
            cached_tokens=cached_tokens,
            kv_bytes=self.report.bytes,
        )

    def finished(self, finish_reason: FinishReason, rest: str) -> Finished:
        return Finished(
            request_id=self.request_id,
            sequence=self.next_sequence(),
            finish_reason=finish_reason,
            text=rest,
            completion_tokens=self.generated,
            stop=self.text.stop,
            transfer=self.report,
            prefill=self.prefill_times(),
        )

    def failed(self, code: str, message: str, retry_after_s: float | None) -> Failed:
        return Failed(
            request_id=self.request_id,
            sequence=self.next_sequence(),
            code=code,
            message=message,
            retry_after_s=retry_after_s,
        )

    def too_late(self, why: str) -> str:
        return f"no first token within {self.generate.ttft_deadline_s:g} s: {why}"
