import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from prfaas.replay.arrival import Arrival
from prfaas.replay.prompts import TokenPrompts, WordPrompts
from prfaas.replay.words import LETTERS, WORDS

BLOCKS = st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=5)


@given(BLOCKS, st.integers(1, 100), st.integers(1, 32), st.integers(0, 99))
def test_a_prompt_has_its_length_and_equal_blocks_give_equal_tokens(
    blocks: list[int], tokens: int, block_tokens: int, index: int
) -> None:
    arrival = Arrival(0.0, tokens, 1, blocks, block_tokens)
    found = TokenPrompts(1, range(1000, 32_000)).tokens(index, arrival)
    assert len(found) == tokens and all(1000 <= token < 32_000 for token in found)
    again = TokenPrompts(1, range(1000, 32_000)).tokens(index + 1, arrival)
    shared = min(tokens, len(blocks) * block_tokens)
    assert again[:shared] == found[:shared]


def test_what_no_block_names_is_of_the_request_alone() -> None:
    prompts = TokenPrompts(1)
    one, other = (prompts.tokens(index, Arrival(0.0, 64, 1, (5,), 32)) for index in (0, 1))
    assert one[:32] == other[:32] and one[32:] != other[32:]
    assert one != TokenPrompts(2).tokens(0, Arrival(0.0, 64, 1, (5,), 32))


def test_a_partial_last_block_begins_as_the_whole_one_does() -> None:
    prompts = TokenPrompts(1)
    whole, part = (prompts.tokens(0, Arrival(0.0, tokens, 1, (7, 8), 32)) for tokens in (64, 40))
    assert whole[:40] == part


def test_the_blocks_of_a_trace_may_be_replaced() -> None:
    arrival = Arrival(0.0, 64, 1, (7, 8))
    one, other = (TokenPrompts(1, block_tokens=16).tokens(index, arrival) for index in (0, 1))
    assert one[:32] == other[:32] and one[32:] != other[32:]
    nothing, shared = (TokenPrompts(1, block_tokens=0).tokens(index, arrival) for index in (0, 1))
    assert nothing[:8] != shared[:8]


def test_a_text_of_the_trace_is_sent_as_it_is() -> None:
    arrival = Arrival(0.0, 64, 1, text="Hello")
    assert TokenPrompts(1)(0, arrival) == WordPrompts(1, WORDS)(0, arrival) == "Hello"


@given(BLOCKS, st.integers(1, 100), st.integers(1, 32), st.integers(0, 20))
def test_text_has_as_many_words_and_shares_them_by_block(
    blocks: list[int], tokens: int, block_tokens: int, overhead: int
) -> None:
    arrival = Arrival(0.0, tokens, 1, blocks, block_tokens)
    text = WordPrompts(1, WORDS, overhead)(3, arrival)
    again = WordPrompts(1, WORDS, overhead)(4, arrival)
    assert isinstance(text, str) and isinstance(again, str)
    words = text.split(" ")[1:]
    assert len(words) == max(1, tokens - overhead)
    shared = min(len(words), len(blocks) * block_tokens)
    assert again.split(" ")[1 : shared + 1] == words[:shared]


@pytest.mark.parametrize("alphabet", [WORDS, LETTERS])
def test_alphabets_have_no_member_twice(alphabet: tuple[str, ...]) -> None:
    assert len(alphabet) == len(set(alphabet)) >= 16


def test_the_wire_has_the_same_tokens() -> None:
    arrival = Arrival(0.0, 10, 1, (1,), 4)
    body = msgspec.json.encode({"prompt": TokenPrompts(1)(0, arrival)})
    assert msgspec.json.decode(body)["prompt"] == TokenPrompts(1).tokens(0, arrival)
