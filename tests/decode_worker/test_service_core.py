"""The decode core under any order of events: slots and cache are never oversold, and every request ends exactly once."""

from typing import NamedTuple

import hypothesis.strategies as st
import msgspec
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from prfaas.contracts.kv import TransferReport
from prfaas.contracts.terms import Outcome
from prfaas.contracts.to_decode import Generate, Sampling
from prfaas.contracts.to_gateway import (
    Failed,
    Finished,
    GenerateAccepted,
    GenerateEvent,
    GenerateRefused,
    Placement,
    Started,
    Tokens,
)
from prfaas.contracts.to_scheduler import AttemptEnded
from prfaas.contracts.wire import pack_tokens
from prfaas.engine.protocol import SampledToken
from prfaas_decode_worker.admission import Limits
from prfaas_decode_worker.events import (
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
    RequestBroken,
    StepDone,
    StepFailed,
    TellScheduler,
    Tick,
)
from prfaas_decode_worker.service_core import DecodeCore
from tests.budget import examples

EOS = 7
POISON = 666
"""A token whose text cannot be told."""
DEADLINE_S = 10.0


class Piece(NamedTuple):
    text: str
    stopped: bool


class SpelledText:
    """Token n is the digit n; `9` stops when the request has stop strings, and `8` is held back until the next one."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self.stop = stop
        self.held = ""
        self.chars = 0

    def push(self, token_id: int) -> Piece:
        if token_id == POISON:
            raise RuntimeError("no such digit")
        text, self.held = self.held + str(token_id), ""
        if token_id == 8:
            text, self.held = text[:-1], "8"
        self.chars += len(text)
        return Piece(text, token_id != 8 and str(token_id) in self.stop)

    def flush(self) -> Piece:
        return Piece(self.held, self.held in self.stop)

    def offset_chars(self, token_id: int) -> int:
        return self.chars + len(self.held)


class Digits:
    def new_text(self, sampling: Sampling) -> SpelledText:
        if "poison" in sampling.stop:
            raise ValueError("a tokenizer that\n  raises")
        return SpelledText(sampling.stop)

    def token_bytes(self, token_id: int) -> bytes:
        if token_id == POISON:
            raise RuntimeError("no such digit")
        return b"\xff" if token_id == 6 else str(token_id).encode()


def make_core(slots: int = 2, waiting: int = 2, cache_bytes: int = 1000) -> DecodeCore:
    limits = Limits(slots=slots, coming=slots, waiting=waiting, context_tokens=100, cache_bytes=cache_bytes)
    return DecodeCore("d0", "i1", "m", limits, frozenset({EOS}), Digits(), lambda total_tokens: 10 * total_tokens)


def ask(
    request_id: str = "r1", prompt: tuple[int, ...] = (1, 2, 3), max_tokens: int = 4, remote: bool = True, **sampling: object
) -> Generate:
    placement = Placement(
        transfer_id=request_id,
        prefill_site="far" if remote else "home",
        fallback_site="home" if remote else None,
        decode_worker="d0",
        outcome=Outcome.OFFLOADED if remote else Outcome.LOCAL_SHORT,
        reason="a test",
        fallback_after_s=4.0,
    )
    return Generate(
        request_id=request_id,
        model="m",
        placement=placement,
        token_ids=pack_tokens(prompt),
        sampling=Sampling(max_tokens=max_tokens, **sampling),  # type: ignore[arg-type]
        reply_to="gw",
        ttft_deadline_s=DEADLINE_S,
    )


def events_of(instructions: list[Instruction]) -> list[GenerateEvent]:
    return [instruction.event for instruction in instructions if isinstance(instruction, Emit)]


def step(core: DecodeCore, token_id: int, now_s: float = 2.0) -> list[Instruction]:
    return core.handle(StepDone(now_s, tuple((row.request_id, SampledToken(token_id=token_id)) for row in core.rows())))


def started(core: DecodeCore, generate: Generate) -> None:
    core.handle(GenerateAsked(0.0, generate))
    core.handle(AttemptVerified(1.0, generate.request_id, 1, 0.0, TransferReport()))


def test_a_request_runs_from_placement_to_length() -> None:
    core = make_core()
    accepted, begin = core.handle(GenerateAsked(0.0, ask(max_tokens=2)))
    assert accepted == Answer("r1", GenerateAccepted(request_id="r1", incarnation="i1"))
    assert isinstance(begin, BeginAttempt)
    assert (begin.prefill_site, begin.attempt, begin.token_ids, begin.timeout_s) == ("far", 1, (1, 2), 4.0)
    (first,) = events_of(core.handle(AttemptVerified(1.0, "r1", 1, 100.25, TransferReport(bytes=5))))
    assert isinstance(first, Started) and first.outcome is Outcome.OFFLOADED and first.sequence == 0
    assert [row.token_id for row in core.rows()] == [3], "the last prompt token is the first that the batch computes"
    assert isinstance(events_of(step(core, 5))[0], Tokens)
    core.handle(PrefillTimed(1.5, "r1", 1, queue_s=0.1, prefill_s=0.9, ended_unix_s=100.0))
    tokens, finished = events_of(step(core, 6))
    assert isinstance(tokens, Tokens) and isinstance(finished, Finished)
    assert (finished.finish_reason, finished.completion_tokens, finished.transfer.bytes) == ("length", 2, 5)
    assert (finished.prefill.residual_s, finished.prefill.queue_s) == (0.25, 0.1), "known although it came after the KV"
    assert [event.sequence for event in (first, tokens, finished)] == [0, 2, 3]
    assert not core.requests


def test_every_attempt_carries_its_tenant_to_the_link() -> None:
    core = make_core()
    _, begin = core.handle(GenerateAsked(0.0, msgspec.structs.replace(ask(), tenant="acme")))
    assert isinstance(begin, BeginAttempt) and begin.tenant == "acme"
    again = next(out for out in core.handle(AttemptFailed(1.0, "r1", 1, "timeout", "no")) if isinstance(out, BeginAttempt))
    assert again.tenant == "acme"


def test_eos_ends_without_text_and_ignore_eos_goes_on() -> None:
    core = make_core()
    started(core, ask("r1"))
    started(core, ask("r2", ignore_eos=True))
    out = events_of(step(core, EOS))
    assert [type(event) for event in out] == [Finished, Tokens]
    assert list(core.requests) == ["r2"]


def test_a_stop_string_ends_the_answer() -> None:
    core = make_core()
    started(core, ask(stop=("9",)))
    *_, finished = events_of(step(core, 9))
    assert isinstance(finished, Finished) and finished.finish_reason == "stop"


def test_eos_and_stop_strings_end_nothing_before_min_tokens() -> None:
    core = make_core()
    started(core, ask(min_tokens=2))
    for token_id in (EOS, EOS):
        (tokens,) = events_of(step(core, token_id))
        assert isinstance(tokens, Tokens) and tokens.token_ids == (EOS,)
    (finished,) = events_of(step(core, EOS))
    assert isinstance(finished, Finished) and (finished.finish_reason, finished.completion_tokens) == ("stop", 3)


def test_what_is_held_back_comes_out_at_every_end() -> None:
    for max_tokens, last, stop, reason, rest in (
        (2, 8, (), "length", "8"),
        (9, EOS, (), "stop", "8"),
        (2, 8, ("8",), "stop", "8"),
    ):
        core = make_core()
        started(core, ask(max_tokens=max_tokens, stop=stop))
        step(core, 8 if last == EOS else 1)
        *_, finished = events_of(step(core, last))
        assert isinstance(finished, Finished) and (finished.finish_reason, finished.text) == (reason, rest)


def test_a_token_without_a_text_fails_its_own_request_and_says_which() -> None:
    core = make_core()
    started(core, ask("r1"))
    started(core, ask("r2"))
    tokens = (("r1", SampledToken(token_id=POISON)), ("r2", SampledToken(token_id=5)))
    failed, went_on = events_of(core.handle(StepDone(2.0, tokens)))
    assert isinstance(failed, Failed) and (failed.request_id, failed.code, failed.sequence) == ("r1", "text", 1)
    assert failed.retry_after_s is None and "token 666" in failed.message and "RuntimeError: no such digit" in failed.message
    assert isinstance(went_on, Tokens) and list(core.requests) == ["r2"]
    core.validate()


def test_log_probabilities_that_cannot_be_told_fail_their_request_only() -> None:
    core = make_core()
    started(core, ask("r1", top_logprobs=1))
    started(core, ask("r2", top_logprobs=1))
    bad = SampledToken(token_id=5, logprob=-1.0, top=((POISON, -0.5),))
    good = SampledToken(token_id=5, logprob=-1.0, top=((5, -1.0),))
    failed, went_on = events_of(core.handle(StepDone(2.0, (("r1", bad), ("r2", good)))))
    assert isinstance(failed, Failed) and isinstance(went_on, Tokens)
    (failed,) = events_of(core.handle(StepDone(2.0, (("r2", SampledToken(token_id=5)),))))
    assert isinstance(failed, Failed) and "gave none" in failed.message


def test_a_request_that_the_shell_cannot_go_on_with_fails_alone() -> None:
    core = make_core()
    core.handle(GenerateAsked(0.0, ask("r1")))
    started(core, ask("r2"))
    out = core.handle(RequestBroken(1.0, "r1", "its span is gone"))
    (failed,) = events_of(out)
    assert isinstance(failed, Failed) and (failed.code, failed.retry_after_s) == ("internal_error", None)
    assert EndAttempt("r1", 1, "far") in out and list(core.requests) == ["r2"]
    assert core.handle(RequestBroken(1.0, "r1", "again")) == []


def test_a_tokenizer_that_raises_refuses_the_request_and_changes_nothing() -> None:
    core = make_core()
    (out,) = core.handle(GenerateAsked(0.0, ask(stop=("poison",))))
    assert isinstance(out, Answer) and isinstance(out.answer, GenerateRefused)
    assert out.answer.code == "internal"
    assert out.answer.message == "request 'r1' cannot be taken: ValueError: a tokenizer that raises"
    assert not core.requests


def test_a_failed_remote_attempt_falls_back_to_the_local_site_and_says_so() -> None:
    core = make_core()
    core.handle(GenerateAsked(0.0, ask()))
    ended, told, begin = core.handle(AttemptFailed(4.0, "r1", 1, "timeout", "no frame for 3 s"))
    assert ended == EndAttempt("r1", 1, "far")
    assert told == TellScheduler(AttemptEnded(request_id="r1", site="far", verified=False, code="timeout", next_site="home"))
    assert isinstance(begin, BeginAttempt)
    assert (begin.prefill_site, begin.attempt, begin.timeout_s) == ("home", 2, DEADLINE_S - 4.0)
    (event,) = events_of(core.handle(AttemptVerified(5.0, "r1", 2, 0.0, TransferReport())))
    assert isinstance(event, Started)
    assert event.outcome is Outcome.FALLBACK_TIMEOUT and "no frame for 3 s" in event.reason


def test_the_named_worker_gets_the_first_attempt_only() -> None:
    core = make_core()
    generate = ask(remote=False)
    generate = msgspec.structs.replace(generate, placement=msgspec.structs.replace(generate.placement, prefill_worker="p1"))
    _, begin = core.handle(GenerateAsked(0.0, generate))
    assert isinstance(begin, BeginAttempt) and begin.prefill_worker == "p1"
    *_, again = core.handle(AttemptFailed(1.0, "r1", 1, "worker_lost", "gone"))
    assert isinstance(again, BeginAttempt) and again.prefill_worker is None


def test_the_client_hears_what_was_cached_and_the_report_what_was_saved() -> None:
    core = make_core()
    core.handle(GenerateAsked(0.0, ask(max_tokens=1)))
    report = TransferReport(bytes=5, cached_tokens=2, reused_tokens=1, saved_bytes=9)
    (first,) = events_of(core.handle(AttemptVerified(1.0, "r1", 1, 0.0, report)))
    assert isinstance(first, Started) and (first.cached_tokens, first.kv_bytes) == (2, 5)
    *_, finished = events_of(step(core, 5))
    assert isinstance(finished, Finished)
    assert finished.transfer is report


def test_news_of_an_old_attempt_is_ignored() -> None:
    core = make_core()
    core.handle(GenerateAsked(0.0, ask()))
    core.handle(AttemptFailed(1.0, "r1", 1, "corrupt", "a flipped bit"))
    assert core.handle(AttemptVerified(1.1, "r1", 1, 0.0, TransferReport())) == []
    assert core.handle(AttemptFailed(1.1, "r1", 1, "timeout", "late")) == []
    assert not core.rows()


def test_the_local_site_is_tried_twice_and_then_the_client_hears_it() -> None:
    core = make_core()
    core.handle(GenerateAsked(0.0, ask(remote=False)))
    core.handle(AttemptFailed(1.0, "r1", 1, "prefill_failed", "out of memory"))
    *_, failed = events_of(core.handle(AttemptFailed(2.0, "r1", 2, "prefill_failed", "out of memory")))
    assert isinstance(failed, Failed) and "out of memory" in failed.message and failed.retry_after_s
    assert not core.requests


def test_no_first_token_in_time_fails_the_request_and_ends_its_attempt() -> None:
    core = make_core()
    core.handle(GenerateAsked(0.0, ask()))
    assert core.handle(Tick(DEADLINE_S - 0.1)) == []
    emit, ended, told, release = core.handle(Tick(DEADLINE_S))
    assert isinstance(told, TellScheduler) and isinstance(told.news, AttemptEnded) and not told.news.verified
    assert isinstance(emit, Emit) and isinstance(emit.event, Failed) and emit.event.code == "deadline"
    assert ended == EndAttempt("r1", 1, "far")
    assert isinstance(release, Release)
    assert (release.request_id, release.ended, release.completion_tokens, release.decode_s) == ("r1", "deadline", 0, 0.0)


def test_requests_wait_for_a_slot_in_order_and_the_line_is_bounded() -> None:
    core = make_core(slots=1, waiting=1)
    core.handle(GenerateAsked(0.0, ask("r1")))
    assert core.handle(GenerateAsked(0.0, ask("r2"))) == [Answer("r2", GenerateAccepted(request_id="r2", incarnation="i1"))]
    (refused,) = core.handle(GenerateAsked(0.0, ask("r3")))
    assert isinstance(refused, Answer) and isinstance(refused.answer, GenerateRefused)
    assert refused.answer.code == "overloaded"
    *_, begin = core.handle(CancelAsked(1.0, "r1"))
    assert isinstance(begin, BeginAttempt) and begin.request_id == "r2"


def test_bad_requests_are_refused_and_change_nothing() -> None:
    core = make_core()
    cases = {
        "wrong_model": Generate(**{**{f: getattr(ask(), f) for f in ask().__struct_fields__}, "model": "other"}),
        "context_length_exceeded": ask(prompt=tuple(range(90)), max_tokens=20),
        "bad_request": ask(prompt=()),
        "bad_request ": msgspec.structs.replace(ask(), token_ids=b"\x01"),
    }
    for code, generate in cases.items():
        (out,) = core.handle(GenerateAsked(0.0, generate))
        assert isinstance(out, Answer) and isinstance(out.answer, GenerateRefused) and out.answer.code == code.strip()
    assert not core.requests
    small = make_core(cache_bytes=50)
    (out,) = small.handle(GenerateAsked(0.0, ask()))
    assert isinstance(out, Answer) and isinstance(out.answer, GenerateRefused) and out.answer.code == "cache_too_small"


def test_logprobs_are_spelled_out() -> None:
    core = make_core()
    started(core, ask(top_logprobs=1))
    out = core.handle(StepDone(2.0, (("r1", SampledToken(token_id=5, logprob=-0.5, top=((5, -0.5),))),)))
    (tokens,) = events_of(out)
    assert isinstance(tokens, Tokens)
    assert tokens.details[0].chosen.token == "5" and tokens.details[0].top[0].logprob == -0.5
    (tokens,) = events_of(core.handle(StepDone(2.0, (("r1", SampledToken(token_id=6, logprob=-0.5)),))))
    assert isinstance(tokens, Tokens)
    (detail,) = tokens.details
    assert (detail.chosen.token, detail.chosen.bytes, detail.chosen.token_id, detail.text_offset) == ("\\xff", (0xFF,), 6, 1)


def test_a_draining_worker_takes_nothing_new_and_finishes_what_it_has() -> None:
    core = make_core()
    started(core, ask("r1", max_tokens=1))
    core.handle(DrainAsked(1.0))
    (out,) = core.handle(GenerateAsked(1.0, ask("r2")))
    assert isinstance(out, Answer) and isinstance(out.answer, GenerateRefused) and out.answer.code == "draining"
    assert isinstance(events_of(step(core, 1))[-1], Finished)
    core.handle(DrainGivenUp(2.0))
    (out, _) = core.handle(GenerateAsked(2.0, ask("r2")))
    assert isinstance(out, Answer) and isinstance(out.answer, GenerateAccepted), "it keeps its role"


def answer_of(core: DecodeCore, generate: Generate, token_ids: list[int]) -> list[GenerateEvent]:
    """Returns the events of a request whose engine gives these tokens, one after another."""
    out = core.handle(GenerateAsked(0.0, generate))
    out += core.handle(AttemptVerified(1.0, generate.request_id, 1, 0.0, TransferReport()))
    for token_id in token_ids:
        out += step(core, token_id)
    return events_of(out)


def told(events: list[GenerateEvent]) -> tuple[str, list[int]]:
    """Returns what a client has of an answer: its text and its tokens."""
    text = "".join(event.text for event in events if isinstance(event, Tokens | Finished))
    return text, [token_id for event in events if isinstance(event, Tokens) for token_id in event.token_ids]


@given(
    token_ids=st.lists(st.integers(0, 9), min_size=12, max_size=12),
    sent=st.integers(0, 12),
    max_tokens=st.integers(1, 12),
    min_tokens=st.integers(0, 4),
    stop=st.sampled_from([(), ("9",), ("8",)]),
)
def test_an_answer_that_another_worker_goes_on_with_is_the_same(
    token_ids: list[int], sent: int, max_tokens: int, min_tokens: int, stop: tuple[str, ...]
) -> None:
    generate = ask(max_tokens=max_tokens, min_tokens=min_tokens, stop=stop, prompt=(1, 2, 3))
    whole = answer_of(make_core(cache_bytes=10_000), generate, token_ids)
    # The first worker is lost after some of its events came, perhaps just before the last one.
    came = list(whole[:-1][: 1 + sent])
    text, sent_ids = told(came)
    core = make_core(cache_bytes=10_000)
    moved = msgspec.structs.replace(generate, sent_token_ids=pack_tokens(sent_ids))
    rest = answer_of(core, moved, token_ids)
    more, more_ids = told(rest)
    assert (text + more, sent_ids + more_ids) == told(whole)
    finished, undisturbed = rest[-1], whole[-1]
    assert isinstance(finished, Finished) and isinstance(undisturbed, Finished)
    assert (finished.finish_reason, finished.completion_tokens) == (undisturbed.finish_reason, undisturbed.completion_tokens)
    assert [event.sequence for event in rest] == list(range(len(rest))) and isinstance(rest[0], Started)
    assert not core.requests


def test_a_moved_request_computes_what_was_sent_again_step_by_step_and_has_its_own_deadline() -> None:
    core = make_core()
    moved = msgspec.structs.replace(ask(max_tokens=4), sent_token_ids=pack_tokens([5, 6]))
    _, begin = core.handle(GenerateAsked(0.0, moved))
    assert isinstance(begin, BeginAttempt)
    assert (begin.token_ids, begin.total_tokens) == ((1, 2), 7)
    core.handle(AttemptVerified(1.0, "r1", 1, 0.0, TransferReport()))
    for expected in (3, 5):
        assert [row.token_id for row in core.rows()] == [expected]
        assert step(core, 9) == [], "the client has these tokens, whatever comes out"
    assert [row.token_id for row in core.rows()] == [6]
    (failed,) = events_of(core.handle(Tick(DEADLINE_S)))
    assert isinstance(failed, Failed) and failed.code == "deadline"


def test_an_answer_that_was_complete_when_its_worker_was_lost_needs_no_slot() -> None:
    core = make_core(slots=1, waiting=0)
    started(core, ask("r1"))
    moved = msgspec.structs.replace(ask("r2", max_tokens=2), sent_token_ids=pack_tokens([5, 8]))
    out = core.handle(GenerateAsked(0.0, moved))
    first, finished = events_of(out)
    assert isinstance(first, Started) and isinstance(finished, Finished)
    assert (finished.finish_reason, finished.text, finished.completion_tokens) == ("length", "8", 2)
    over = next(each.news for each in out if isinstance(each, TellScheduler))
    assert isinstance(over, AttemptEnded)
    assert (over.verified, over.code) == (False, "cancelled")
    core.validate()


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.core = make_core(slots=2, waiting=2, cache_bytes=200)
        self.now_s = 0.0
        self.count = 0
        self.accepted: set[str] = set()
        self.cancelled: set[str] = set()
        self.ended: dict[str, str] = {}
        self.terminal: dict[str, int] = {}
        self.sequences: dict[str, int] = {}
        self.open: dict[str, int] = {}
        """Attempts that hold a reader and a sequence, by request."""

    def do(self, event: Event) -> None:
        for out in self.core.handle(event):
            match out:
                case Answer(request_id, GenerateAccepted()):
                    self.accepted.add(request_id)
                case BeginAttempt(request_id=request_id, attempt=attempt, timeout_s=timeout_s):
                    assert request_id not in self.open, "a second attempt began before the first ended"
                    assert timeout_s > 0
                    self.open[request_id] = attempt
                case EndAttempt(request_id, attempt, _):
                    assert self.open.pop(request_id) == attempt
                case Emit(_, told):
                    assert told.sequence == self.sequences.get(told.request_id, 0), "a gap in the client's events"
                    self.sequences[told.request_id] = told.sequence + 1
                    if isinstance(told, Finished | Failed):
                        self.terminal[told.request_id] = self.terminal.get(told.request_id, 0) + 1
                case Release(request_id=request_id, ended=ended):
                    assert request_id not in self.ended, "released twice"
                    self.ended[request_id] = ended
                case _:
                    pass

    @rule(prompt=st.integers(1, 8), max_tokens=st.integers(1, 6), remote=st.booleans())
    def ask(self, prompt: int, max_tokens: int, remote: bool) -> None:
        self.count += 1
        self.do(GenerateAsked(self.now_s, ask(f"r{self.count}", tuple(range(prompt)), max_tokens, remote)))

    @precondition(lambda self: self.count)
    @rule(data=st.data(), verified=st.booleans())
    def attempt_reports(self, data: st.DataObject, verified: bool) -> None:
        request_id = f"r{data.draw(st.integers(1, self.count))}"
        attempt = data.draw(st.integers(1, 3))
        if verified:
            before = self.open.get(request_id)
            self.do(AttemptVerified(self.now_s, request_id, attempt, 0.0, TransferReport()))
            if before == attempt and request_id in self.core.requests:
                self.open.pop(request_id)  # verified: the sequence now belongs to the batch
        else:
            self.do(
                AttemptFailed(self.now_s, request_id, attempt, data.draw(st.sampled_from(["timeout", "corrupt", "x"])), "why")
            )

    @rule(token_id=st.one_of(st.integers(0, 9), st.just(POISON)))
    def step(self, token_id: int) -> None:
        rows = self.core.rows()
        self.do(StepDone(self.now_s, tuple((row.request_id, SampledToken(token_id=token_id)) for row in rows)))

    @rule()
    def engine_fails(self) -> None:
        self.do(StepFailed(self.now_s, tuple(row.request_id for row in self.core.rows()), "the engine broke"))

    @precondition(lambda self: self.count)
    @rule(data=st.data())
    def shell_breaks(self, data: st.DataObject) -> None:
        self.do(RequestBroken(self.now_s, f"r{data.draw(st.integers(1, self.count))}", "the shell broke"))

    @precondition(lambda self: self.count)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request_id = f"r{data.draw(st.integers(1, self.count))}"
        if request_id in self.core.requests:
            self.cancelled.add(request_id)
        self.do(CancelAsked(self.now_s, request_id))

    @rule(seconds=st.floats(0.1, 6))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.do(Tick(self.now_s))

    @invariant()
    def everything_adds_up(self) -> None:
        self.core.validate()
        assert self.accepted == set(self.core.requests) | set(self.ended), "an accepted request is lost"
        for request_id in self.ended:
            assert self.terminal.get(request_id, 0) == (0 if request_id in self.cancelled else 1)
        in_transfer = {r.request_id for r in self.core.admission.holding} - {row.request_id for row in self.core.rows()}
        assert set(self.open) == in_transfer, "an attempt outlives its request, or has none"


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=examples(80), stateful_step_count=40, deadline=None)
