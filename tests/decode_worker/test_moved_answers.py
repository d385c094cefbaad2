"""Answers that another worker goes on with."""

from typing import Any

import hypothesis.strategies as st
import msgspec
from hypothesis import given

from prfaas.contracts.kv import TransferReport
from prfaas.contracts.to_decode import Generate
from prfaas.contracts.to_gateway import (
    Failed,
    Finished,
    GenerateEvent,
    Started,
    Tokens,
)
from prfaas.contracts.to_scheduler import AttemptEnded
from prfaas.contracts.wire import pack_tokens
from prfaas_decode_worker.events import (
    AttemptVerified,
    BeginAttempt,
    GenerateAsked,
    TellScheduler,
    Tick,
)
from prfaas_decode_worker.service_core import DecodeCore
from tests.decode_worker.core_at_hand import (
    DEADLINE_S,
    EOS,
    ask,
    events_of,
    make_core,
    started,
    step,
)


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
    stop_token_ids=st.sampled_from([(), (5,), (EOS, 4)]),
    ignore_eos=st.booleans(),
)
def test_an_answer_that_another_worker_goes_on_with_is_the_same(
    token_ids: list[int],
    sent: int,
    max_tokens: int,
    min_tokens: int,
    stop: tuple[str, ...],
    stop_token_ids: tuple[int, ...],
    ignore_eos: bool,
) -> None:
    ends: dict[str, Any] = {"stop": stop, "stop_token_ids": stop_token_ids, "ignore_eos": ignore_eos, "min_tokens": min_tokens}
    generate = ask(max_tokens=max_tokens, prompt=(1, 2, 3), **ends)
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
