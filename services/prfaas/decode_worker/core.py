"""The decode worker's decisions, pure: admission, attempts with their fallbacks, the running batch, what each client is told.

A request waits for a slot, then for its KV (one attempt after another, each fenced by its number), then runs in the batch.
Exactly one terminal event (Finished or Failed) ends it, unless its client left; then it ends silently.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple, Protocol

from msgspec.structs import replace

from prfaas.contracts.to_decode import Generate, GenerateAccepted, GenerateRefused, Sampling
from prfaas.contracts.to_gateway import (
    Failed,
    Finished,
    Started,
    TokenDetail,
    TokenLogprob,
    Tokens,
    TransferReport,
)
from prfaas.contracts.to_scheduler import AttemptEnded, Outcome
from prfaas.contracts.wire import unpack_tokens
from prfaas.decode_worker.events import (
    Answer,
    AttemptFailed,
    AttemptVerified,
    BeginAttempt,
    CancelAsked,
    DrainAsked,
    DrainGivenUp,
    Emit,
    EndAttempt,
    Event,
    GenerateAsked,
    Instruction,
    PrefillTimed,
    Release,
    StepDone,
    StepFailed,
    TellScheduler,
    Tick,
)
from prfaas.engine.protocol import SampledToken

MAX_LOCAL_ATTEMPTS = 2
"""At the last site that is tried: a broken local prefill is tried once more, then the client hears of it."""
MIN_ATTEMPT_S = 0.2
"""With less time than this until the deadline another attempt is not begun."""

FALLBACK_OUTCOMES = {
    "timeout": Outcome.FALLBACK_TIMEOUT,
    "expired": Outcome.FALLBACK_TIMEOUT,
    "corrupt": Outcome.FALLBACK_CORRUPT,
    "broker": Outcome.FALLBACK_BROKER,
}
"""By the code of the first attempt's failure; any other is FALLBACK_PREFILL_FAILED."""


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


class Limits(NamedTuple):
    slots: int
    waiting: int
    context_tokens: int
    cache_bytes: int


class Row(NamedTuple):
    request_id: str
    token_id: int
    forbid_eos: bool


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

    def transfer_report(self) -> TransferReport:
        if not self.verified_unix_s or not self.prefill_ended_unix_s:
            return self.report
        return replace(self.report, residual_s=max(0.0, self.verified_unix_s - self.prefill_ended_unix_s))


class DecodeCore:
    def __init__(
        self,
        worker: str,
        model: str,
        limits: Limits,
        eos_token_ids: frozenset[int],
        vocabulary: Vocabulary,
        sequence_bytes: Callable[[int], int],
    ) -> None:
        self.worker = worker
        self.model = model
        self.limits = limits
        self.eos_token_ids = eos_token_ids
        self.vocabulary = vocabulary
        self.sequence_bytes = sequence_bytes
        self.requests: dict[str, Request] = {}
        self.draining = False

    @property
    def holding(self) -> list[Request]:
        """Requests that hold a slot."""
        return [request for request in self.requests.values() if request.phase is not Phase.WAITING]

    @property
    def waiting(self) -> list[Request]:
        return [request for request in self.requests.values() if request.phase is Phase.WAITING]

    @property
    def cache_bytes(self) -> int:
        return sum(request.cache_bytes for request in self.holding)

    def rows(self) -> list[Row]:
        """The next step of the batch."""
        return [
            Row(request.request_id, request.next_token, request.generated < request.generate.sampling.min_tokens)
            for request in self.requests.values()
            if request.phase is Phase.RUNNING
        ]

    def handle(self, event: Event) -> list[Instruction]:
        match event:
            case GenerateAsked(now_s, generate):
                return self._generate(generate, now_s)
            case CancelAsked(now_s, request_id):
                request = self.requests.get(request_id)
                return self._end(request, "cancelled", now_s) if request else []
            case AttemptVerified():
                return self._verified(event)
            case PrefillTimed():
                return self._timed(event)
            case AttemptFailed(now_s, request_id, attempt, code, message):
                return self._attempt_failed(request_id, attempt, code, message, now_s)
            case StepDone(now_s, tokens):
                out: list[Instruction] = []
                for request_id, token in tokens:
                    if request_id in self.requests:
                        out += self._token(self.requests[request_id], token, now_s)
                return out
            case StepFailed(now_s, request_ids, message):
                running = [self.requests[request_id] for request_id in request_ids if request_id in self.requests]
                return [i for request in running for i in self._fail(request, "engine", message, None, now_s)]
            case Tick(now_s):
                return self._tick(now_s)
            case DrainAsked():
                self.draining = True
                return []
            case DrainGivenUp():
                self.draining = False
                return []

    def validate(self) -> None:
        assert len(self.holding) <= self.limits.slots, "more requests hold a slot than there are slots"
        assert self.cache_bytes <= self.limits.cache_bytes, "more cache is promised than there is"
        assert len(self.waiting) <= self.limits.waiting, "the waiting line is longer than its limit"
        for request_id, request in self.requests.items():
            assert request_id == request.request_id
            assert (request.attempt == 0) == (request.phase is Phase.WAITING)
            assert request.generated < request.generate.sampling.max_tokens, "a finished request is still here"

    # ---- admission

    def _generate(self, generate: Generate, now_s: float) -> list[Instruction]:
        prompt = unpack_tokens(generate.token_ids)
        total_tokens = len(prompt) + generate.sampling.max_tokens
        cache_bytes = self.sequence_bytes(total_tokens)
        refusal: tuple[str, str] | None = None
        if self.draining:
            refusal = "draining", f"decode worker {self.worker!r} is shutting down"
        elif generate.model != self.model:
            refusal = "wrong_model", f"decode worker {self.worker!r} serves {self.model!r}, not {generate.model!r}"
        elif generate.request_id in self.requests:
            refusal = "duplicate", f"request {generate.request_id!r} is already running here"
        elif not prompt or generate.sampling.max_tokens < 1:
            refusal = "bad_request", "a request needs at least one prompt token and one token to generate"
        elif total_tokens > self.limits.context_tokens:
            refusal = (
                "context_length_exceeded",
                f"{len(prompt)} prompt tokens and {generate.sampling.max_tokens} to generate exceed the context of "
                f"{self.limits.context_tokens} tokens",
            )
        elif cache_bytes > self.limits.cache_bytes:
            refusal = (
                "cache_too_small",
                f"{total_tokens} tokens need {cache_bytes} bytes of KV cache, the worker has {self.limits.cache_bytes}",
            )
        elif len(self.waiting) >= self.limits.waiting and (self.waiting or not self._fits(cache_bytes)):
            refusal = (
                "overloaded",
                f"all {self.limits.slots} slots are taken and {len(self.waiting)} requests wait, which is the limit",
            )
        if refusal:
            code, message = refusal
            answer = GenerateRefused(request_id=generate.request_id, code=code, message=message, retry_after_s=1.0)
            return [Answer(generate.request_id, answer)]

        self.requests[generate.request_id] = Request(
            generate=generate,
            prompt=prompt,
            text=self.vocabulary.new_text(generate.sampling),
            cache_bytes=cache_bytes,
            deadline_s=now_s + generate.ttft_deadline_s,
            next_token=prompt[-1],
            outcome=generate.placement.outcome,
            reason=generate.placement.reason,
            prefill_site=generate.placement.prefill_site,
        )
        accepted = Answer(generate.request_id, GenerateAccepted(request_id=generate.request_id))
        return [accepted, *self._admit(now_s)]

    def _fits(self, cache_bytes: int) -> bool:
        return len(self.holding) < self.limits.slots and self.cache_bytes + cache_bytes <= self.limits.cache_bytes

    def _admit(self, now_s: float) -> list[Instruction]:
        """First come, first served: a large request at the head is not overtaken by small ones, or it would starve."""
        out: list[Instruction] = []
        for request in self.waiting:
            if now_s >= request.deadline_s:
                continue  # the next tick fails it; a slot would be wasted on it
            if not self._fits(request.cache_bytes):
                break
            request.phase = Phase.TRANSFER
            out.append(self._begin_attempt(request, now_s))
        return out

    # ---- attempts

    def _begin_attempt(self, request: Request, now_s: float) -> BeginAttempt:
        request.attempt += 1
        request.attempts_at_site += 1
        left_s = request.deadline_s - now_s
        placement = request.generate.placement
        may_fall_back = placement.fallback_site not in (None, request.prefill_site)
        return BeginAttempt(
            request_id=request.request_id,
            transfer_id=placement.transfer_id,
            attempt=request.attempt,
            prefill_site=request.prefill_site,
            token_ids=tuple(request.prompt[:-1]),
            total_tokens=len(request.prompt) + request.generate.sampling.max_tokens,
            tenant=request.generate.tenant,
            timeout_s=min(left_s, placement.fallback_after_s) if may_fall_back else left_s,
        )

    def _verified(self, event: AttemptVerified) -> list[Instruction]:
        request = self._fenced(event.request_id, event.attempt)
        if request is None:
            return []
        request.phase = Phase.RUNNING
        request.joined_s = event.now_s
        request.verified_unix_s = event.verified_unix_s
        request.report = replace(
            request.report,
            bytes=event.bytes,
            frames=event.frames,
            lossy_frames=event.lossy_frames,
            attempts=event.attempt,
            duration_s=event.duration_s,
        )
        started = Started(
            request_id=request.request_id,
            sequence=self._sequence(request),
            prefill_site=request.prefill_site,
            outcome=request.outcome,
            reason=request.reason,
            cached_tokens=0,
        )
        return [Emit(request.generate.reply_to, started), self._attempt_ended(request, verified=True)]

    def _timed(self, event: PrefillTimed) -> list[Instruction]:
        request = self.requests.get(event.request_id)
        if request is not None and request.attempt == event.attempt:
            request.prefill_ended_unix_s = event.ended_unix_s
            request.report = replace(request.report, queue_s=event.queue_s, prefill_s=event.prefill_s)
        return []

    def _attempt_failed(self, request_id: str, attempt: int, code: str, message: str, now_s: float) -> list[Instruction]:
        request = self._fenced(request_id, attempt)
        if request is None:
            return []
        fallback = request.generate.placement.fallback_site
        site = request.prefill_site
        if fallback is not None and fallback != site:
            request.outcome = FALLBACK_OUTCOMES.get(code, Outcome.FALLBACK_PREFILL_FAILED)
            request.reason = f"prefill at {site} failed ({code}: {message}); first placed there because {request.reason}"
            request.prefill_site, request.attempts_at_site = fallback, 0
        elif request.attempts_at_site >= MAX_LOCAL_ATTEMPTS:
            return self._fail(request, code, f"prefill at site {site} failed: {message}", 1.0, now_s)
        if request.deadline_s - now_s < MIN_ATTEMPT_S:
            return self._fail(request, "deadline", self._too_late(request, f"prefill at {site} failed: {message}"), 1.0, now_s)
        told = AttemptEnded(request_id=request_id, site=site, verified=False, code=code, next_site=request.prefill_site)
        return [EndAttempt(request_id, attempt, site), TellScheduler(told), self._begin_attempt(request, now_s)]

    def _fenced(self, request_id: str, attempt: int) -> Request | None:
        """None for news of an attempt that is no longer the current one."""
        request = self.requests.get(request_id)
        if request is None or request.attempt != attempt or request.phase is not Phase.TRANSFER:
            return None
        return request

    # ---- the batch

    def _token(self, request: Request, token: SampledToken, now_s: float) -> list[Instruction]:
        sampling = request.generate.sampling
        request.generated += 1
        request.next_token = token.token_id
        if token.token_id in self.eos_token_ids and not sampling.ignore_eos:
            return self._finish(request, "stop", now_s)
        delta = request.text.push(token.token_id)
        tokens = Tokens(
            request_id=request.request_id,
            sequence=self._sequence(request),
            text=delta.text,
            token_ids=(token.token_id,),
            details=() if sampling.top_logprobs is None else (self._detail(token),),
        )
        out: list[Instruction] = [Emit(request.generate.reply_to, tokens)]
        if delta.stopped:
            return out + self._finish(request, "stop", now_s)
        if request.generated >= sampling.max_tokens:
            return out + self._finish(request, "length", now_s)
        return out

    def _detail(self, token: SampledToken) -> TokenDetail:
        def entry(token_id: int, logprob: float) -> TokenLogprob:
            text = self.vocabulary.token_text(token_id)
            return TokenLogprob(text, logprob, tuple(text.encode()))

        assert token.logprob is not None, "the engine was asked for log-probabilities"
        return TokenDetail(chosen=entry(token.token_id, token.logprob), top=tuple(entry(*top) for top in token.top))

    # ---- endings

    def _tick(self, now_s: float) -> list[Instruction]:
        late = [request for request in self.requests.values() if not request.generated and now_s >= request.deadline_s]
        out: list[Instruction] = []
        for request in late:
            doing = {Phase.WAITING: "waited for a free slot", Phase.TRANSFER: "waited for its KV", Phase.RUNNING: "was decoding"}
            out += self._fail(request, "deadline", self._too_late(request, f"it {doing[request.phase]}"), 1.0, now_s)
        return out

    def _too_late(self, request: Request, why: str) -> str:
        return f"no first token within {request.generate.ttft_deadline_s:g} s: {why}"

    def _finish(self, request: Request, finish_reason: str, now_s: float) -> list[Instruction]:
        finished = Finished(
            request_id=request.request_id,
            sequence=self._sequence(request),
            finish_reason=finish_reason,
            text=request.text.flush(),
            completion_tokens=request.generated,
            transfer=request.transfer_report(),
        )
        return [Emit(request.generate.reply_to, finished), *self._end(request, finish_reason, now_s)]

    def _fail(self, request: Request, code: str, message: str, retry_after_s: float | None, now_s: float) -> list[Instruction]:
        failed = Failed(
            request_id=request.request_id,
            sequence=self._sequence(request),
            code=code,
            message=message,
            retry_after_s=retry_after_s,
        )
        return [Emit(request.generate.reply_to, failed), *self._end(request, code, now_s)]

    def _end(self, request: Request, ended: str, now_s: float) -> list[Instruction]:
        del self.requests[request.request_id]
        out: list[Instruction] = []
        if request.phase is Phase.TRANSFER:
            out.append(EndAttempt(request.request_id, request.attempt, request.prefill_site))
        if request.phase is not Phase.RUNNING:
            out.append(self._attempt_ended(request, verified=False, code=ended))
        out.append(
            Release(
                request_id=request.request_id,
                outcome=request.outcome,
                prefill_site=request.prefill_site,
                report=request.transfer_report(),
                completion_tokens=request.generated,
                decode_s=now_s - request.joined_s if request.phase is Phase.RUNNING else 0.0,
                ended=ended,
            )
        )
        return out + self._admit(now_s)

    def _attempt_ended(self, request: Request, *, verified: bool, code: str = "") -> TellScheduler:
        return TellScheduler(AttemptEnded(request_id=request.request_id, site=request.prefill_site, verified=verified, code=code))

    def _sequence(self, request: Request) -> int:
        request.events_sent += 1
        return request.events_sent - 1
