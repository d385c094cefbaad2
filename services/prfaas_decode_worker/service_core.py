"""Decisions of the decode worker, pure: admission, attempts with their fallbacks, the running batch, what each client is told.

A request waits for a slot, then for its KV (one attempt after another, each fenced by its number), then runs in the batch.
Exactly one terminal event (Finished or Failed) ends it, unless its client left; then it ends silently.
"""

from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace

from prfaas.contracts.codes import GOOD_ENDS, FailureCode
from prfaas.contracts.terms import FinishReason
from prfaas.contracts.to_decode import SAMPLING_LEVEL, Generate
from prfaas.contracts.to_gateway import GenerateAccepted, GenerateRefused, Tokens
from prfaas.contracts.to_scheduler import AttemptEnded
from prfaas.contracts.wire import BadMessageError
from prfaas.engine.protocol import SampledToken
from prfaas.worker.faults import fault_text
from prfaas_decode_worker.admission import Admission, Limits, Refusal
from prfaas_decode_worker.events import (
    Answer,
    AttemptFailed,
    AttemptVerified,
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
    RequestBroken,
    StepDone,
    StepFailed,
    TellScheduler,
    Tick,
    WorkerAnswered,
)
from prfaas_decode_worker.prefill_deaths import DEADLY, PrefillDeaths
from prfaas_decode_worker.request import Phase, Request, Vocabulary
from prfaas_decode_worker.retries import give_up, next_attempt
from prfaas_decode_worker.token_news import TokenNews, replay, take_token


class Row(NamedTuple):
    """One request's part in the next step."""

    request_id: str
    token_id: int
    forbid_eos: bool


class DecodeCore:
    """One worker's requests. `handle` takes what happened and returns what the shell is to do."""

    def __init__(
        self,
        worker: str,
        incarnation: str,
        model: str,
        limits: Limits,
        eos_token_ids: frozenset[int],
        vocabulary: Vocabulary,
        sequence_bytes: Callable[[int], int],
    ) -> None:
        self.worker = worker
        self.incarnation = incarnation
        self.model = model
        self.admission = Admission(limits)
        self.eos_token_ids = eos_token_ids
        self.vocabulary = vocabulary
        self.sequence_bytes = sequence_bytes
        self.requests = self.admission.requests
        self.deaths = PrefillDeaths()
        self.draining = False

    def rows(self) -> list[Row]:
        """Returns the rows of the batch's next step."""
        return [
            Row(request.request_id, request.next_token, request.generated < request.generate.sampling.min_tokens)
            for request in self.admission.batch
        ]

    def handle(self, event: Event) -> list[Instruction]:
        match event:
            case GenerateAsked(now_s, generate):
                return self._generate(generate, now_s)
            case CancelAsked(now_s, request_id):
                request = self.requests.get(request_id)
                return self._end(request, FailureCode.CANCELLED, now_s) if request else []
            case AttemptVerified():
                return self._verified(event)
            case PrefillTimed():
                return self._timed(event)
            case AttemptFailed():
                return self._attempt_failed(event)
            case WorkerAnswered(_, worker):
                self.deaths.lives(worker)
                return []
            case StepDone(now_s, tokens):
                return [out for request_id, token in tokens for out in self._stepped(request_id, token, now_s)]
            case StepFailed(now_s, request_ids, message):
                return [out for request_id in request_ids for out in self._broken(request_id, FailureCode.ENGINE, message, now_s)]
            case RequestBroken(now_s, request_id, message):
                told = f"the decode worker could not go on with request {request_id!r}: {message}"
                return self._broken(request_id, FailureCode.INTERNAL_ERROR, told, now_s)
            case Tick(now_s):
                return self._tick(now_s)
            case DrainAsked():
                self.draining = True
                return []
            case DrainGivenUp():
                self.draining = False
                return []

    def validate(self) -> None:
        self.admission.validate()
        for request in self.requests.values():
            assert (request.attempt == 0) == (request.phase is Phase.WAITING)
            assert request.generated < request.generate.sampling.max_tokens, "a finished request is still here"

    # ---- admission

    def _generate(self, generate: Generate, now_s: float) -> list[Instruction]:
        ended: TokenNews | None = None
        try:
            request = Request.of(generate, self.vocabulary, self.sequence_bytes, now_s)
            ended = replay(request)
            refusal = None if ended is not None else self._refusal(request, now_s)
            refusal = self._never(generate) or refusal
        except BadMessageError as error:
            refusal = Refusal(FailureCode.BAD_REQUEST, str(error))
        except Exception as error:  # neither tokenizer nor engine may take the others' requests with this one
            refusal = Refusal(FailureCode.INTERNAL, f"request {generate.request_id!r} cannot be taken: {fault_text(error)}")
        if refusal:
            code, message = refusal
            answer = GenerateRefused(request_id=generate.request_id, code=code, message=message, retry_after_s=1.0)
            return [Answer(generate.request_id, answer)]
        self.requests[generate.request_id] = request
        accepted = Answer(generate.request_id, self._accepted(generate.request_id))
        if ended is not None and ended.finish_reason is not None:
            started = Emit(generate.reply_to, request.started(cached_tokens=0))
            return [accepted, started, *self._finish(request, ended.finish_reason, ended.rest, now_s)]
        return [accepted, *self._admit(now_s)]

    def _accepted(self, request_id: str) -> GenerateAccepted:
        return GenerateAccepted(request_id=request_id, incarnation=self.incarnation, sampling_level=SAMPLING_LEVEL)

    def _never(self, generate: Generate) -> Refusal | None:
        if self.draining:
            return Refusal(FailureCode.DRAINING, f"decode worker {self.worker!r} is shutting down")
        if generate.model != self.model:
            return Refusal(
                FailureCode.WRONG_MODEL, f"decode worker {self.worker!r} serves {self.model!r}, not {generate.model!r}"
            )
        if generate.request_id in self.requests:
            return Refusal(FailureCode.DUPLICATE, f"request {generate.request_id!r} is already running here")
        return None

    def _refusal(self, request: Request, now_s: float) -> Refusal | None:
        if self.deaths.deadly(request.prompt, now_s):
            return Refusal(FailureCode.PREFILL_CRASH, DEADLY)
        if now_s >= request.first_token_due_at:  # in the waiting line it would take a place that it cannot leave but by failing
            return Refusal(FailureCode.DEADLINE, request.too_late("it came too late to begin"))
        return self.admission.refusal(len(request.prompt), request.generate.sampling.max_tokens, request.cache_bytes)

    def _admit(self, now_s: float) -> list[Instruction]:
        return [next_attempt(request, now_s) for request in self.admission.admit(now_s)]

    # ---- attempts

    def _verified(self, event: AttemptVerified) -> list[Instruction]:
        request = self._fenced(event.request_id, event.attempt)
        if request is None:
            return []
        self.deaths.survived(request.prompt)
        request.phase = Phase.RUNNING
        request.joined_at = event.now_s
        request.verified_unix_s = event.verified_unix_s
        request.report = event.report
        started = request.started(event.report.cached_tokens)
        told: list[Instruction] = [Emit(request.generate.reply_to, started), self._attempt_ended(request, verified=True)]
        return [*told, *self._admit(event.now_s)]

    def _timed(self, event: PrefillTimed) -> list[Instruction]:
        request = self.requests.get(event.request_id)
        if request is not None and request.attempt == event.attempt:
            request.prefill_ended_unix_s = event.ended_unix_s
            request.times = replace(request.times, queue_s=event.queue_s, prefill_s=event.prefill_s, chunks=event.chunks)
        return []

    def _attempt_failed(self, failed: AttemptFailed) -> list[Instruction]:
        request_id, attempt, code, now_s = failed.request_id, failed.attempt, failed.code, failed.now_s
        request = self._fenced(request_id, attempt)
        if request is None:
            return []
        site = request.prefill_site
        if failed.died is not None:
            self.deaths.died(request.prompt, failed.died, now_s)
            if self.deaths.deadly(request.prompt, now_s):
                return self._fail(request, FailureCode.PREFILL_CRASH, DEADLY, None, now_s)
        if told := give_up(request, code, failed.message, now_s):
            # An engine fails on this prompt wherever it is sent: that the client tries again helps nothing.
            retry_after_s = None if code == FailureCode.ENGINE else failed.retry_after_s or 1.0
            return self._fail(request, *told, retry_after_s, now_s)
        ended = AttemptEnded(request_id=request_id, site=site, verified=False, code=code, next_site=request.prefill_site)
        return [EndAttempt(request_id, attempt, site), TellScheduler(ended), next_attempt(request, now_s)]

    def _fenced(self, request_id: str, attempt: int) -> Request | None:
        """Returns the request; None for news of an attempt that is no longer the current one."""
        request = self.requests.get(request_id)
        if request is None or request.attempt != attempt or request.phase is not Phase.TRANSFER:
            return None
        return request

    # ---- the batch

    def _stepped(self, request_id: str, token: SampledToken, now_s: float) -> list[Instruction]:
        request = self.requests.get(request_id)
        if request is None:
            return []
        if request.again:  # the client has this one: what counts is that KV and random state are as they were
            request.next_token = request.again.popleft()
            return []
        try:
            news = take_token(request, token, self.vocabulary, self.eos_token_ids)
        except Exception as error:  # a text that cannot be told ends its own request only
            return self._fail(
                request, FailureCode.TEXT, f"token {token.token_id} gives no text: {fault_text(error)}", None, now_s
            )
        out: list[Instruction] = []
        if not news.is_end_token:
            tokens = Tokens(
                request_id=request_id,
                sequence=request.next_sequence(),
                text=news.text,
                token_ids=(token.token_id,),
                details=news.details,
            )
            out.append(Emit(request.generate.reply_to, tokens))
        if news.finish_reason is not None:
            out += self._finish(request, news.finish_reason, news.rest, now_s)
        return out

    # ---- endings

    def _tick(self, now_s: float) -> list[Instruction]:
        late = [request for request in self.requests.values() if not request.has_token and now_s >= request.first_token_due_at]
        out: list[Instruction] = []
        for request in late:
            doing = {Phase.WAITING: "waited for a free slot", Phase.TRANSFER: "waited for its KV", Phase.RUNNING: "was decoding"}
            out += self._fail(request, FailureCode.DEADLINE, request.too_late(f"it {doing[request.phase]}"), 1.0, now_s)
        return out

    def _finish(self, request: Request, finish_reason: FinishReason, rest: str, now_s: float) -> list[Instruction]:
        return [Emit(request.generate.reply_to, request.finished(finish_reason, rest)), *self._end(request, finish_reason, now_s)]

    def _broken(self, request_id: str, code: str, message: str, now_s: float) -> list[Instruction]:
        request = self.requests.get(request_id)
        return [] if request is None else self._fail(request, code, message, None, now_s)

    def _fail(self, request: Request, code: str, message: str, retry_after_s: float | None, now_s: float) -> list[Instruction]:
        return [Emit(request.generate.reply_to, request.failed(code, message, retry_after_s)), *self._end(request, code, now_s)]

    def _end(self, request: Request, ended: str, now_s: float) -> list[Instruction]:
        del self.requests[request.request_id]
        out: list[Instruction] = []
        if request.phase is Phase.TRANSFER:
            out.append(EndAttempt(request.request_id, request.attempt, request.prefill_site))
        if request.phase is not Phase.RUNNING:
            # An answer that was complete before any attempt says nothing of a site.
            code = FailureCode.CANCELLED if ended in GOOD_ENDS else ended
            out.append(self._attempt_ended(request, verified=False, code=code))
        out.append(
            Release(
                request_id=request.request_id,
                outcome=request.outcome,
                prefill_site=request.prefill_site,
                report=request.report,
                times=request.prefill_times(),
                completion_tokens=request.generated,
                decode_s=now_s - request.joined_at if request.phase is Phase.RUNNING else 0.0,
                ended=ended,
            )
        )
        return out + self._admit(now_s)

    def _attempt_ended(self, request: Request, *, verified: bool, code: str = "") -> TellScheduler:
        return TellScheduler(AttemptEnded(request_id=request.request_id, site=request.prefill_site, verified=verified, code=code))
