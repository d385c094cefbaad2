"""Text token by token is the text of the whole list, whatever the tokenizer and whatever the tokens."""

from functools import cache

import hypothesis.strategies as st
import pytest
from hypothesis import assume, given, settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from prfaas_decode_worker.decoder_stages import BYTE_OF_CHARACTER, MAX_RUN_BYTES
from prfaas_decode_worker.detokenizer import Detokenizer, TokenTexts, UnknownDecoderError, texts_of
from tests.budget import examples
from tests.decode_worker.tokenizers_at_hand import TOKENIZERS, byte_token_ids, special_token_ids, token_id_of

HALF_A_LLAMA = [478, 397, 404, 391, 478, 1123]
"""Gemma's tokens of the bytes of a llama, of the first byte of another one, and of " x"."""


@cache
def token_ids(name: str, max_size: int = 40) -> st.SearchStrategy[list[int]]:
    """Ids of all kinds, among them pieces of characters and ids that only a model's padded embedding has."""
    tokenizer = TOKENIZERS[name]()
    vocabulary = tokenizer.get_vocab_size()
    kinds: list[st.SearchStrategy[list[int]]] = [
        st.lists(st.integers(0, vocabulary - 1), max_size=3),
        st.lists(st.integers(vocabulary, vocabulary + 100), max_size=1),
        st.lists(st.sampled_from(special_token_ids(name)), max_size=2),
    ]
    if byte_ids := byte_token_ids(name):
        whole = st.text(max_size=3).map(lambda text: text.encode(errors="replace"))
        part = st.tuples(st.text(min_size=1, max_size=1), st.integers(0, 3)).map(lambda p: p[0].encode(errors="replace")[: p[1]])
        some = st.one_of(whole, part, st.binary(max_size=3))
        kinds += [some.map(lambda data: [byte_ids[byte] for byte in data if byte in byte_ids])] * 3
    parts = st.lists(st.one_of(kinds), max_size=12)
    return parts.map(lambda found: [token_id for part in found for token_id in part][:max_size])


def streamed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(texts_of(tokenizer))
    return [*(detokenizer.push(token_id) for token_id in ids), detokenizer.flush()]


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=examples(150))
@given(data=st.data())
def test_what_was_sent_is_the_text_of_the_whole_list(name: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[name]()
    ids = data.draw(token_ids(name))
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("name", ["gemma", "smollm2", "byte level", "llama"])
@settings(max_examples=examples(60))
@given(data=st.data())
def test_bytes_alone_are_the_text_of_the_whole_list(name: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[name]()
    byte_ids = byte_token_ids(name)
    ids = data.draw(st.lists(st.sampled_from(list(byte_ids.values())), max_size=MAX_RUN_BYTES - 1))
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)


def test_half_a_character_between_whole_ones_neither_raises_nor_revises() -> None:
    tokenizer = TOKENIZERS["gemma"]()
    assert "".join(streamed(tokenizer, HALF_A_LLAMA * 20)) == "����� x" * 20 == tokenizer.decode(HALF_A_LLAMA * 20)


@pytest.mark.parametrize(("name", "shown"), [("gemma", "��"), ("llama", "��"), ("smollm2", "�"), ("byte level", "�")])
def test_an_unfinished_character_comes_out_at_the_end_as_the_tokenizer_has_it(name: str, shown: str) -> None:
    first, second = (byte_token_ids(name)[byte] for byte in "🦙".encode()[:2])
    assert streamed(TOKENIZERS[name](), [first, second]) == ["", "", shown]


def test_an_endless_run_of_bytes_is_let_go_in_parts_that_end_at_characters() -> None:
    byte_ids = byte_token_ids("gemma")
    text = "a" + "🦙" * 1000
    shown = streamed(TOKENIZERS["gemma"](), [byte_ids[byte] for byte in text.encode()])
    assert "".join(shown) == text
    held = longest_held = 0
    for part in shown:
        held = 0 if part else held + 1
        longest_held = max(longest_held, held)
    assert longest_held < MAX_RUN_BYTES


def test_bytes_that_are_no_text_are_one_mark_each_in_a_long_run_too() -> None:
    broken = byte_token_ids("gemma")[0xFF]
    assert "".join(streamed(TOKENIZERS["gemma"](), [broken] * 1000)) == "�" * 1000


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokens_own_bytes_are_those_of_its_vocabulary(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    texts = texts_of(tokenizer)
    for byte, token_id in byte_token_ids(name).items():
        assert texts.token_bytes(token_id) == bytes([byte])
    for token_id in special_token_ids(name):
        assert texts.token_bytes(token_id).decode() == tokenizer.id_to_token(token_id)
    assert texts.token_bytes(tokenizer.get_vocab_size() + 7) == b""


@pytest.mark.parametrize(
    ("name", "token", "own"),
    [
        ("gemma", "▁x", b" x"),
        ("gemma", "\n\n", b"\n\n"),
        ("smollm2", "Ġthe", b" the"),
        ("llama", "▁été", " été".encode()),
        ("metaspace", "▁▁a", b"  a"),
        ("WordPiece", "##ing", b"ing"),
        ("WordPiece", "hello", b"hello"),
        ("word ends", "low</w>", b"low "),
        ("words", "hello", b"hello"),
    ],
)
def test_a_mark_for_a_space_is_a_space_in_a_tokens_bytes(name: str, token: str, own: bytes) -> None:
    assert texts_of(TOKENIZERS[name]()).token_bytes(token_id_of(name, token)) == own


@pytest.mark.parametrize("name", ["gemma", "smollm2", "byte level"])
@settings(max_examples=examples(100))
@given(text=st.text(max_size=12))
def test_a_tokens_offset_is_where_its_characters_begin(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]()
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assume(tokenizer.decode(ids) == text)  # neither special tokens nor bytes that the vocabulary has not
    texts = texts_of(tokenizer)
    detokenizer = Detokenizer(texts)
    before = b""
    for token_id in ids:
        assert detokenizer.offset_chars(token_id) == len(before.decode(errors="ignore"))
        detokenizer.push(token_id)
        before += texts.token_bytes(token_id)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=examples(60))
@given(data=st.data())
def test_offsets_never_go_back_by_more_than_the_run_that_is_undecided(name: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[name]()
    detokenizer = Detokenizer(texts_of(tokenizer))
    sent_chars = 0
    for token_id in data.draw(token_ids(name)):
        assert sent_chars <= detokenizer.offset_chars(token_id) <= sent_chars + MAX_RUN_BYTES
        sent_chars += len(detokenizer.push(token_id))


def test_the_alphabet_of_bytes_is_the_tokenizers_librarys() -> None:
    assert sorted(BYTE_OF_CHARACTER) == sorted(pre_tokenizers.ByteLevel.alphabet())


@pytest.mark.parametrize(
    "decoder",
    [decoders.CTC(), decoders.Strip(" ", 0, 1), decoders.Sequence([decoders.Fuse(), decoders.Replace("ab", "c")])],
)
def test_a_decoder_that_only_knows_its_text_at_the_end_is_refused_by_name(decoder: decoders.Decoder) -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer.decoder = decoder
    with pytest.raises(UnknownDecoderError, match=r"CTC|Strip|Replace.*after the tokens are fused"):
        TokenTexts(tokenizer)
