"""Prompts for a workload that has only lengths and names of blocks. Equal block ids give equal content, everywhere and always.

A prompt is its blocks' content, in order, cut to its length, and then content of its own. It is either token ids or, for servers
that take only text, words that are known to be one token each (`words.py`).
"""

import random
from collections.abc import Callable, Sequence
from functools import lru_cache

import msgspec
import numpy as np

from prfaas.replay.arrival import Arrival

Prompt = Sequence[int] | str | msgspec.Raw
Prompts = Callable[[int, Arrival], Prompt]
"""(index of the request, arrival) -> prompt: token ids or text, or either as JSON."""

CACHED_BLOCKS = 1024
"""Blocks whose JSON is kept: with Mooncake's 512 tokens some 3 MB."""
BYTE_TOKENS = range(256)


class TokenPrompts:
    """Token ids, drawn from a range of the vocabulary."""

    def __init__(self, seed: int, vocabulary: range = BYTE_TOKENS, block_tokens: int | None = None) -> None:
        """`block_tokens` replaces the arrivals' own; 0 shares nothing."""
        self._seed = seed
        self._vocabulary = vocabulary
        self._block_tokens = block_tokens
        self._block_json = lru_cache(CACHED_BLOCKS)(self._make_block_json)

    def __call__(self, index: int, arrival: Arrival) -> Prompt:
        if arrival.text:
            return arrival.text
        named, own = _parts(arrival, self._block_tokens)
        # A block's JSON is made once: a prompt of 100,000 tokens is then put together within a fraction of a millisecond.
        pieces = [
            self._block_json(block, block_tokens) if tokens == block_tokens else _json(self._block(block, block_tokens)[:tokens])
            for block, block_tokens, tokens in named
        ]
        if own:
            pieces.append(_json(self._draw(f"{self._seed} own {index}", own)))
        return msgspec.Raw(b"[" + b",".join(pieces) + b"]")

    def tokens(self, index: int, arrival: Arrival) -> list[int]:
        """Returns the same prompt as a list."""
        found: list[int] = msgspec.json.decode(bytes(msgspec.json.encode(self(index, arrival))))
        return found

    def _make_block_json(self, block: int, block_tokens: int) -> bytes:
        return _json(self._block(block, block_tokens))

    def _block(self, block: int, block_tokens: int) -> list[int]:
        return self._draw(f"{self._seed} block {block}", block_tokens)

    def _draw(self, name: str, count: int) -> list[int]:
        vocabulary = self._vocabulary
        drawn: list[int] = _source(name).integers(vocabulary.start, vocabulary.stop, count).tolist()
        return drawn


class WordPrompts:
    """Text of words that are one token each; `overhead_tokens` are what the server puts around it."""

    def __init__(self, seed: int, words: Sequence[str], overhead_tokens: int = 0) -> None:
        self._seed = seed
        self._words = np.array(words, dtype=object)
        self._overhead_tokens = overhead_tokens

    def __call__(self, index: int, arrival: Arrival) -> Prompt:
        if arrival.text:
            return arrival.text
        wanted = max(1, arrival.prompt_tokens - self._overhead_tokens)
        named, own = _parts(arrival._replace(prompt_tokens=wanted), None)
        pieces = [self._text(f"{self._seed} block {block}", block_tokens, tokens) for block, block_tokens, tokens in named]
        pieces.append(self._text(f"{self._seed} own {index}", own, own))
        return "".join(pieces)

    def _text(self, name: str, count: int, taken: int) -> str:
        picked = _source(name).integers(0, len(self._words), count)[:taken]
        return "".join(self._words[picked].tolist())


def _parts(arrival: Arrival, block_tokens: int | None) -> tuple[list[tuple[int, int, int]], int]:
    """Returns (block, its tokens, those of them in the prompt) of every named block, and the tokens after them."""
    size = arrival.block_tokens if block_tokens is None else block_tokens
    left = arrival.prompt_tokens
    named = []
    for block in arrival.block_ids if size else ():
        if not left:
            break
        taken = min(size, left)
        named.append((block, size, taken))
        left -= taken
    return named, left


def _json(tokens: Sequence[int]) -> bytes:
    return msgspec.json.encode(tokens)[1:-1]


def _source(name: str) -> np.random.Generator:
    # A text seeds random.Random the same in every process and version; numpy draws many numbers at once.
    return np.random.Generator(np.random.PCG64(random.Random(name).getrandbits(64)))
