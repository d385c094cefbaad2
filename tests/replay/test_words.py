"""Stable text is found by counting: against vocabularies that are made to be difficult."""

import re

import pytest

from prfaas.replay.words import LETTERS, MAX_COUNTS, WORDS, UnstableText, stable_alphabet


class Vocabulary:
    """Counts as a server would, with `overhead` tokens around each text."""

    def __init__(self, pattern: str, overhead: int = 0) -> None:
        self.pattern, self.overhead, self.counts = re.compile(pattern), overhead, 0

    async def count(self, text: str) -> int:
        self.counts += 1
        return len(self.pattern.findall(text)) + self.overhead


async def test_common_words_are_taken_where_they_are_one_token_each() -> None:
    found = await stable_alphabet(Vocabulary(r" \w+", overhead=12).count)
    assert (found.members, found.overhead_tokens) == (WORDS, 12)


async def test_words_of_two_tokens_are_left_out() -> None:
    vocabulary = Vocabulary(r" peop|le| government|ment| \w+")
    found = await stable_alphabet(vocabulary.count)
    assert set(WORDS) - set(found.members) == {" people"}
    assert found.counts == vocabulary.counts <= MAX_COUNTS + 2


async def test_a_byte_vocabulary_gets_letters() -> None:
    found = await stable_alphabet(Vocabulary(r".", overhead=1).count)
    assert (found.members, found.overhead_tokens) == (LETTERS, 1)


async def test_where_nothing_is_stable_it_says_so() -> None:
    with pytest.raises(UnstableText, match="neither common words nor letters"):
        await stable_alphabet(Vocabulary(r"..?").count)
