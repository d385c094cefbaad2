from hypothesis import given
from hypothesis import strategies as st

from prfaas.contracts.to_gateway import TokenDetail, TokenLogprob, Tokens
from prfaas_decode_worker import sent_events
from prfaas_decode_worker.events import Emit
from prfaas_decode_worker.sent_events import KEPT_AFTER_END_S, KEPT_EVENTS, SentEvents

HOME = "prfaas.home.gateway.g.events"


def emit(request_id: str, sequence: int, reply_to: str = HOME, alternatives: int = 0) -> Emit:
    """`alternatives`: log-probabilities beside the token's own; 0: none at all."""
    logprob = TokenLogprob("a", -1.0, (97,))
    details = (TokenDetail(chosen=logprob, top=(logprob,) * alternatives),) if alternatives else ()
    return Emit(reply_to, Tokens(request_id=request_id, sequence=sequence, text="a", token_ids=(1,), details=details))


def keep(kept: SentEvents, request_id: str, events: int, now_s: float = 0.0, alternatives: int = 0) -> None:
    for sequence in range(events):
        kept.keep(emit(request_id, sequence, alternatives=alternatives), now_s)
    kept.validate()


def numbers(kept: SentEvents, request_id: str, sequence: int) -> list[int]:
    return [found.event.sequence for found in kept.since(request_id, sequence, HOME)]


def test_lost_events_and_those_after_them_are_there_in_order() -> None:
    kept = SentEvents()
    keep(kept, "a", 5)
    keep(kept, "b", 2)
    assert numbers(kept, "a", 3) == [3, 4]
    assert numbers(kept, "b", 0) == [0, 1]
    assert numbers(kept, "a", 5) == numbers(kept, "c", 0) == []


def test_a_gap_that_cannot_be_closed_is_left_open() -> None:
    kept = SentEvents()
    keep(kept, "a", KEPT_EVENTS + 10)
    assert numbers(kept, "a", 9) == []
    assert len(numbers(kept, "a", 10)) == KEPT_EVENTS


def test_another_gateway_has_none_of_them_sent() -> None:
    kept = SentEvents()
    keep(kept, "a", 2)
    assert kept.since("a", 0, "prfaas.home.gateway.other.events") == []


def test_the_events_of_a_request_that_has_ended_stay_for_a_while() -> None:
    kept = SentEvents()
    keep(kept, "a", 3)
    kept.end("a", 1.0)
    kept.end("never sent any", 1.0)
    keep(kept, "b", 1, now_s=KEPT_AFTER_END_S + 0.9)
    assert numbers(kept, "a", 2) == [2]
    keep(kept, "c", 1, now_s=KEPT_AFTER_END_S + 1.0)
    assert numbers(kept, "a", 2) == []


def test_an_id_that_is_used_again_has_the_events_of_its_second_request_only() -> None:
    kept = SentEvents()
    keep(kept, "a", 3)
    kept.end("a", 0.0)
    keep(kept, "a", 1)
    assert numbers(kept, "a", 0) == [0]
    keep(kept, "b", 1, now_s=2 * KEPT_AFTER_END_S)
    assert numbers(kept, "a", 0) == [0], "it has not ended"


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 700), st.booleans(), st.sampled_from([0, 20]))))
def test_memory_is_bounded_whatever_is_sent(requests: list[tuple[str, int, bool, int]]) -> None:
    most, sent_events.MOST_ENTRIES = sent_events.MOST_ENTRIES, 1000
    try:
        kept = SentEvents()
        for now_s, (request_id, events, ends, alternatives) in enumerate(requests):
            keep(kept, request_id, events, float(now_s), alternatives)
            if ends:
                kept.end(request_id, float(now_s))
                kept.validate()
    finally:
        sent_events.MOST_ENTRIES = most
