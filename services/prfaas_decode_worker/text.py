"""Text of an answer: detokenized, and cut before the first stop string."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tokenizers import Tokenizer

from prfaas.contracts.to_decode import Sampling
from prfaas.engine.grammar.matcher import GrammarTokenizer
from prfaas.engine.model_directory import WeightsError
from prfaas.engine.tokenizer_file import load_tokenizer
from prfaas.engine.weights import prepare
from prfaas.process.runner import StartRefusedError
from prfaas_decode_worker.detokenizer import Detokenizer, UnknownDecoderError, texts_of
from prfaas_decode_worker.stop_strings import StopMatcher


class TextDelta(NamedTuple):
    """Text that became certain."""

    text: str
    stopped: bool
    """True when a stop string was met. The answer ends before it."""


class TextStream:
    """Text of one answer, token by token. Stop strings count from token `min_tokens` + 1 on, as vLLM has it."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], min_tokens: int = 0, shown_tokens: Iterable[str] = ()) -> None:
        """`shown_tokens`: special tokens that are text."""
        self._detokenizer = Detokenizer(texts_of(tokenizer), frozenset(shown_tokens))
        self._matcher = StopMatcher(stop)
        self._min_tokens = min_tokens
        self._tokens = 0

    def push(self, token_id: int) -> TextDelta:
        """Returns the text that is certain with one token more."""
        self._tokens += 1
        return self._matched(self._detokenizer.push(token_id))

    def flush(self) -> TextDelta:
        """Returns all that was held back: an unfinished character, and what did not become a stop string."""
        text, stopped = self._matched(self._detokenizer.flush())
        return TextDelta(text if stopped else text + self._matcher.flush(), stopped)

    @property
    def stop(self) -> str:
        return self._matcher.met

    def offset_chars(self, token_id: int) -> int:
        """Returns where in the answer's text the next token, `token_id`, begins."""
        return self._detokenizer.offset_chars(token_id)

    def _matched(self, text: str) -> TextDelta:
        return TextDelta(*self._matcher.push(text, counts=self._tokens > self._min_tokens))


class TokenizerVocabulary:
    """Tokenizer as the decode core sees it. Raises UnknownDecoderError when made."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._texts = texts_of(tokenizer)

    def new_text(self, sampling: Sampling) -> TextStream:
        return TextStream(self._tokenizer, sampling.stop, sampling.min_tokens, sampling.shown_tokens)

    def token_bytes(self, token_id: int) -> bytes:
        return self._texts.token_bytes(token_id)


def load_grammar_tokenizer(model: str) -> GrammarTokenizer:
    """Returns the tokenizer of a model as grammars see it, which is read once the first one asks. Raises StartRefusedError."""
    try:
        files = prepare(model)
    except WeightsError as error:
        raise StartRefusedError(str(error)) from error
    return GrammarTokenizer(files.tokenizer, files.vocabulary_tokens, files.eos_token_ids)


def load_vocabulary(model: str) -> TokenizerVocabulary:
    """Reads the tokenizer of a model. Raises StartRefusedError."""
    try:
        return TokenizerVocabulary(load_tokenizer(prepare(model)))
    except (WeightsError, UnknownDecoderError) as error:
        raise StartRefusedError(str(error)) from error
