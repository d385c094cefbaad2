"""The decode core, one story at a time: requests from their placement to their end."""

import msgspec
import pytest

from prfaas.contracts.kv import PrefixSource, TransferReport
from prfaas.contracts.terms import Outcome
from prfaas.contracts.to_decode import SAMPLING_LEVEL, Generate
from prfaas.contracts.to_gateway import (
    Failed,
    Finished,
    GenerateAccepted,
    GenerateRefused,
    Started,
    Tokens,
)
from prfaas.contracts.to_scheduler import AttemptEnded
from prfaas.engine.protocol import SampledToken
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
    GenerateAsked,
    PrefillTimed,
    Release,
    RequestBroken,
    StepDone,
    TellScheduler,
    Tick,
)
from tests.decode_worker.core_at_hand import DEADLINE_S, EOS, POISON, ask, events_of, make_core, started, step


def test_a_request_runs_from_placement_to_length() -> None:
    core = make_core()
    accepted, begin = core.handle(GenerateAsked(0.0, ask(max_tokens=2)))
    assert accepted == Answer("r1", GenerateAccepted(request_id="r1", incarnation="i1", sampling_level=SAMPLING_LEVEL))
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


def test_a_stop_string_ends_the_answer_which_says_it() -> None:
    core = make_core()
    started(core, ask(stop=("7", "9")))
    *_, finished = events_of(step(core, 9))
    assert isinstance(finished, Finished) and (finished.finish_reason, finished.stop) == ("stop", "9")


def test_an_end_token_is_no_stop_string() -> None:
    core = make_core()
    started(core, ask(stop=("9",)))
    *_, finished = events_of(step(core, EOS))
    assert isinstance(finished, Finished) and (finished.finish_reason, finished.stop) == ("stop", "")


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_a_stop_token_ends_as_an_end_token_does_also_where_those_are_ignored(ignore_eos: bool) -> None:
    core = make_core()
    started(core, ask("r1", stop_token_ids=(5, 6), min_tokens=1, ignore_eos=ignore_eos))
    (early,) = events_of(step(core, 5))
    assert isinstance(early, Tokens) and early.token_ids == (5,)
    (finished,) = events_of(step(core, 6))
    assert isinstance(finished, Finished)
    assert (finished.finish_reason, finished.text, finished.completion_tokens) == ("stop", "", 2)


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


def test_the_named_worker_and_what_may_be_pulled_are_the_first_attempts_only() -> None:
    core = make_core()
    pull = PrefixSource(site="home", worker="p2", tokens=4, timeout_s=1.0)
    generate = ask(remote=False)
    generate = msgspec.structs.replace(
        generate, placement=msgspec.structs.replace(generate.placement, prefill_worker="p1", pull=pull)
    )
    _, begin = core.handle(GenerateAsked(0.0, generate))
    assert isinstance(begin, BeginAttempt) and (begin.prefill_worker, begin.pull) == ("p1", pull)
    *_, again = core.handle(AttemptFailed(1.0, "r1", 1, "worker_lost", "gone"))
    assert isinstance(again, BeginAttempt) and (again.prefill_worker, again.pull) == (None, None)


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


@pytest.mark.parametrize("left_s", [0.0, 1e-15])
def test_a_request_that_comes_when_no_time_is_left_is_refused_and_takes_no_place_in_the_line(left_s: float) -> None:
    core = make_core(slots=1, waiting=0)
    late = msgspec.structs.replace(ask(), ttft_deadline_s=left_s)
    (refused,) = core.handle(GenerateAsked(100.0, late))
    assert isinstance(refused, Answer) and isinstance(refused.answer, GenerateRefused)
    assert refused.answer.code == "deadline" and not core.requests
    core.validate()


def test_requests_wait_for_a_slot_in_order_and_the_line_is_bounded() -> None:
    core = make_core(slots=1, waiting=1)
    core.handle(GenerateAsked(0.0, ask("r1")))
    accepted = GenerateAccepted(request_id="r2", incarnation="i1", sampling_level=SAMPLING_LEVEL)
    assert core.handle(GenerateAsked(0.0, ask("r2"))) == [Answer("r2", accepted)]
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
