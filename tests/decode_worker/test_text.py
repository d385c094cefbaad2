"""The text of an answer: characters and stop strings that span tokens, and what comes out at the end."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from prfaas.contracts.to_decode import Sampling
from prfaas_decode_worker.text import TextStream, TokenizerVocabulary
from tests.decode_worker.tokenizers_at_hand import TOKENIZERS, byte_token_ids, token_id_of


def spelled(name: str, text: bytes) -> list[int]:
    return [byte_token_ids(name)[byte] for byte in text]


def answer(name: str, token_ids: list[int], stop: tuple[str, ...] = (), min_tokens: int = 0) -> tuple[str, int | None]:
    """The text, and after how many tokens a stop string ended it; all tokens where the flush did."""
    stream = TextStream(TOKENIZERS[name](), stop, min_tokens)
    text = ""
    for count, token_id in enumerate(token_ids, 1):
        delta = stream.push(token_id)
        text += delta.text
        if delta.stopped:
            return text, count
    rest = stream.flush()
    return text + rest.text, len(token_ids) if rest.stopped else None


@given(st.text(min_size=1).filter(lambda text: text.isprintable()))
def test_characters_of_several_tokens_come_whole(text: str) -> None:
    stream = TextStream(TOKENIZERS["byte level"](), [])
    shown = [stream.push(token_id).text for token_id in spelled("byte level", text.encode())]
    assert "".join(shown) == text
    assert all("�" not in part for part in shown) or "�" in text


@pytest.mark.parametrize("name", ["gemma", "smollm2", "llama", "byte level"])
def test_the_last_token_alone_comes_out_though_it_is_no_character(name: str) -> None:
    assert answer(name, spelled(name, "🦙".encode()[:1])) == ("�", None)


@pytest.mark.parametrize("name", ["gemma", "llama", "byte level"])
def test_a_stop_string_of_bytes_ends_the_answer(name: str) -> None:
    text = "ab🦙cd".encode()
    assert answer(name, spelled(name, text), ("🦙",)) == ("ab", len(text) if name != "byte level" else 6)


@pytest.mark.parametrize("name", ["gemma", "byte level"])
def test_a_stop_string_may_be_the_mark_of_an_unfinished_character(name: str) -> None:
    half = [token_id_of(name, "a"), *spelled(name, "🦙".encode()[:2])]
    assert answer(name, half, ("�",)) == ("a", 3), "it ends in what is let go at the end"
    assert answer(name, half, ("a�",)) == ("", 3)
    assert answer(name, half, ("��!",))[0] == TOKENIZERS[name]().decode(half)


def test_what_only_began_a_stop_string_comes_out_at_the_end() -> None:
    assert answer("byte level", list(b"abc"), ("bcd", "c!")) == ("abc", None)


def test_a_stop_string_within_the_first_min_tokens_is_text() -> None:
    assert answer("byte level", list(b"a.b.c."), (".",), min_tokens=2) == ("a.b", 4)
    assert answer("byte level", list(b"a.b.c."), (".",), min_tokens=4) == ("a.b.c", 6)
    assert answer("byte level", list(b"a."), (".",), min_tokens=2) == ("a.", None)


def test_a_stop_string_over_the_border_of_min_tokens_ends_the_answer_before_its_start() -> None:
    assert answer("byte level", list(b"aENDb"), ("END",), min_tokens=3) == ("a", 4)
    assert answer("byte level", list(b"aENDb"), ("END",), min_tokens=4) == ("aENDb", None)


@given(st.binary(max_size=20), st.integers(0, 20), st.lists(st.text("ab🦙�", min_size=1, max_size=3), max_size=2))
def test_whatever_ends_the_answer_its_text_is_a_start_of_the_whole(data: bytes, min_tokens: int, stop: list[str]) -> None:
    ids = list(data)
    whole = TOKENIZERS["byte level"]().decode(ids)
    text, ended = answer("byte level", ids, tuple(stop), min_tokens)
    assert whole.startswith(text)
    if ended is None:
        assert text == whole
    else:
        assert ended > min_tokens and any(whole[len(text) :].startswith(string) for string in stop)


def test_the_vocabulary_hands_a_requests_stop_strings_to_its_text() -> None:
    vocabulary = TokenizerVocabulary(TOKENIZERS["byte level"]())
    text = vocabulary.new_text(Sampling(max_tokens=9, min_tokens=1, stop=("b",)))
    assert [text.push(token_id).stopped for token_id in b"bb"] == [False, True]
    assert vocabulary.token_bytes(255) == b"\xff"
