"""Text of a known number of tokens, for servers that take no token ids.

Two alphabets are tried: common English words, each with the space before it, which are one token in most vocabularies, and single
letters, which are one token in byte vocabularies. Which of their members are stable is found by counting whole texts, never
assumed: a text of n members must count n tokens more than the empty text does.
"""

import random
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files

WORDS = tuple(f" {word}" for word in (files("prfaas.replay") / "words.txt").read_text("utf-8").split())
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
ALPHABETS = (WORDS, LETTERS)
MIN_STABLE = 16
"""Fewest stable members of an alphabet that make prompts differ enough."""
TRIAL_TOKENS = 256
"""Members in the random text by which a whole alphabet is proved."""
MAX_COUNTS = 96

Count = Callable[[str], Awaitable[int]]
"""Text -> its tokens, with those that the server puts around it."""


class UnstableText(Exception):
    """No alphabet has enough members that count one token each."""


class Alphabet:
    """Members that were found to be one token each."""

    def __init__(self, members: tuple[str, ...], overhead_tokens: int, counts: int) -> None:
        self.members = members
        self.overhead_tokens = overhead_tokens
        """Tokens of a prompt that are not of its text."""
        self.counts = counts
        """Texts that were counted to find out."""


async def stable_alphabet(count: Count) -> Alphabet:
    """Finds the members by counting texts, halving those that count wrong. Raises UnstableText, and what `count` raises."""
    for members in ALPHABETS:
        found = await _Trial(count).run(members)
        if found is not None:
            return found
    raise UnstableText(
        "no text of a known number of tokens was found: neither common words nor letters are one token each in this vocabulary."
    )


class _Trial:
    def __init__(self, count: Count) -> None:
        self._count = count
        self._counts = 0
        self._overhead_tokens = 0

    async def run(self, members: Sequence[str]) -> Alphabet | None:
        # The overhead is what two texts of different length leave when their members are taken off.
        probe = members[0]
        one, nine = await self._counted(probe), await self._counted(probe * 9)
        if nine - one != 8:
            return None
        self._overhead_tokens = one - 1
        stable = await self._stable(tuple(members))
        if len(stable) < MIN_STABLE:
            return None
        source = random.Random("alphabet")
        trial = [source.choice(stable) for _ in range(TRIAL_TOKENS)]
        if await self._counted("".join(trial)) != TRIAL_TOKENS + self._overhead_tokens:
            return None
        return Alphabet(stable, self._overhead_tokens, self._counts)

    async def _stable(self, members: tuple[str, ...]) -> tuple[str, ...]:
        """Returns those that count one token each, by halves; none of a part that is left when MAX_COUNTS are used up."""
        if self._counts >= MAX_COUNTS:
            return ()
        if await self._counted("".join(members)) == len(members) + self._overhead_tokens:
            return members
        if len(members) == 1:
            return ()
        middle = len(members) // 2
        return await self._stable(members[:middle]) + await self._stable(members[middle:])

    async def _counted(self, text: str) -> int:
        self._counts += 1
        return await self._count(text)
