"""An answer followed through its grammar, token by token."""

import threading
from collections.abc import Collection
from pathlib import Path

from llguidance import LLMatcher, LLTokenizer

from prfaas.engine.grammar.forms import GrammarError, parser_limits


class GrammarTokenizer:
    """A model's tokenizer as grammars see it, made when the first one asks: it takes memory, and up to seconds."""

    def __init__(self, tokenizer: Path, vocabulary_tokens: int, eos_token_ids: Collection[int]) -> None:
        """`vocabulary_tokens`: number of the model's logits."""
        self._path = tokenizer
        self._vocabulary_tokens = vocabulary_tokens
        self._eos_token_ids = sorted(eos_token_ids)
        self._made: LLTokenizer | None = None
        self._making = threading.Lock()

    def matcher(self, grammar: str) -> "GrammarMatcher":
        """Blocks for milliseconds, the first time for up to seconds. Raises GrammarError."""
        with self._making:
            if self._made is None:
                self._made = self._make()
        return GrammarMatcher(LLMatcher(self._made, grammar, log_level=0, limits=parser_limits()))

    def _make(self) -> LLTokenizer:
        if not self._eos_token_ids:
            raise GrammarError("cannot be followed: the model has no end token")
        try:
            return LLTokenizer(str(self._path), n_vocab=self._vocabulary_tokens, eos_token=self._eos_token_ids)
        except Exception as error:  # the library raises nothing more particular
            raise GrammarError(f"cannot be followed with the model's tokenizer: {error}") from error


class GrammarMatcher:
    """Place of one answer in its grammar. Raises GrammarError when made of a grammar that cannot be followed."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher
        self._check()

    def mask(self) -> bytes:
        """Returns one bit per token of the vocabulary, the lowest bit of a byte first: set for tokens that may come next.

        Where the grammar is at its end these are the end tokens alone. Raises GrammarError where its bounds are reached."""
        mask = self._matcher.compute_bitmask()
        self._check()
        return bytes(mask)

    def take(self, token_id: int) -> None:
        """Goes on by one token. Raises GrammarError for one that may not come."""
        self._matcher.consume_token(token_id)
        self._check()

    def _check(self) -> None:
        # A matcher at its end is stopped, and no failure.
        if self._matcher.is_error():
            message = self._matcher.get_error().strip().partition("\n")[0]
            raise GrammarError(f"cannot be followed: {message[:300]}")
