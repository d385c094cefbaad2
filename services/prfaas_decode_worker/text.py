"""From token ids to text that is certain: incremental detokenization, and stop strings that may span tokens."""

from collections.abc import Sequence
from typing import NamedTuple

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from prfaas.contracts.to_decode import Sampling


class StopMatcher:
    """Cuts a stream of text before the first stop string, holding back only what could still become one."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Returns what is certain now, and whether a stop string was met; after that nothing more comes."""
        self._held += text
        found = [at for at in (self._held.find(stop) for stop in self._stop) if at >= 0]
        if found:
            certain, self._held = self._held[: min(found)], ""
            return certain, True
        keep = max((self._overlap(stop) for stop in self._stop), default=0)
        certain, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return certain, False

    def flush(self) -> str:
        rest, self._held = self._held, ""
        return rest

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that is a proper start of `stop`."""
        for length in range(min(len(stop) - 1, len(self._held)), 0, -1):
            if self._held.endswith(stop[:length]):
                return length
        return 0


class TextDelta(NamedTuple):
    text: str
    stopped: bool


class TextStream:
    """The text of one answer, token by token. A character whose bytes are not complete yet is held back."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._matcher = StopMatcher(stop)

    def push(self, token_id: int) -> TextDelta:
        return TextDelta(*self._matcher.push(self._decoder.step(self._tokenizer, token_id) or ""))

    def flush(self) -> str:
        """What was held back for a stop string that did not come."""
        return self._matcher.flush()


class TokenizerVocabulary:
    """The decode core's view of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def new_text(self, sampling: Sampling) -> TextStream:
        return TextStream(self._tokenizer, sampling.stop)

    def token_text(self, token_id: int) -> str:
        return self._tokenizer.decode([token_id], skip_special_tokens=False)
