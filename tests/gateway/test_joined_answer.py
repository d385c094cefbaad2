"""Events of several placements are one answer: nothing twice, nothing missing, and a gap stays a gap."""

import hypothesis.strategies as st
from hypothesis import given

from prfaas.contracts.kv import TransferReport
from prfaas.contracts.terms import Outcome
from prfaas.contracts.to_gateway import Finished, GenerateEvent, Started, Tokens
from prfaas_gateway.joined_answer import JoinedAnswer


def leg(first_token: int, tokens: int, *, finished: bool = False) -> list[GenerateEvent]:
    """Returns the events of one placement, which goes on with `first_token`."""
    events: list[GenerateEvent] = [
        Started(request_id="r", sequence=0, prefill_site="s", outcome=Outcome.LOCAL_SHORT, reason="", cached_tokens=0)
    ]
    for index in range(tokens):
        token = first_token + index
        events.append(Tokens(request_id="r", sequence=1 + index, text=f"{token} ", token_ids=(token,)))
    if finished:
        end = {"finish_reason": "stop", "text": "", "completion_tokens": first_token + tokens, "transfer": TransferReport()}
        events.append(Finished(request_id="r", sequence=1 + tokens, **end))  # type: ignore[arg-type]
    return events


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=4), st.integers(0, 5))
def test_placements_that_are_lost_anywhere_give_one_answer_without_a_gap(lost: list[tuple[int, bool]], last: int) -> None:
    answer = JoinedAnswer()
    taken = []
    for tokens, begun in lost:
        events = leg(len(answer.token_ids), tokens) if begun else []
        taken += [event for event in map(answer.take, events) if event is not None]
        answer.place_again()
    taken += [event for event in map(answer.take, leg(len(answer.token_ids), last, finished=True)) if event is not None]
    assert [event.sequence for event in taken] == list(range(len(taken)))
    assert [type(event) for event in taken].count(Started) == 1 and isinstance(taken[0], Started)
    assert isinstance(taken[-1], Finished) and taken[-1].completion_tokens == len(answer.token_ids)
    assert answer.token_ids == list(range(len(answer.token_ids)))


def test_a_gap_within_a_placement_stays_a_gap() -> None:
    answer = JoinedAnswer()
    for event in leg(0, 2):
        answer.take(event)
    answer.place_again()
    started, first, second = leg(2, 2)
    assert answer.take(started) is None
    after_gap = answer.take(second)
    assert after_gap is not None and after_gap.sequence == 4, "3 is missing"
    del first
