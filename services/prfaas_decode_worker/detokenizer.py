"""Text of token ids, token by token.

Text that was given out is never revised. All of it together is `Tokenizer.decode` of all ids without special tokens, but for
runs of more than `decoder_stages.MAX_RUN_BYTES` byte-fallback tokens, which are decoded in parts.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from typing import Any

from tokenizers import Regex, Tokenizer, decoders

from prfaas_decode_worker.decoder_stages import (
    ByteCharacters,
    ByteRuns,
    Placed,
    Replaced,
    Spaced,
    Stage,
    Stripped,
    WordEnds,
)

SHOWN_TOKENS = 16_384
"""Spellings that are kept, of which the latest make up most of any text."""
_CONTINUATION_BYTES = range(0x80, 0xC0)

MakeStage = Callable[[], Stage]


class UnknownDecoderError(Exception):
    """Refusal of a tokenizer whose tokens have no certain text before the last one is known."""


class TokenTexts:
    """Texts of one tokenizer's tokens. Raises UnknownDecoderError when made."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder().values()
        self._special = frozenset(token.content for token in added if token.special)
        self.shown = lru_cache(SHOWN_TOKENS)(self._shown)
        self._make_stages = decoder_stages(tokenizer)
        self._own_stages = self.new_stages()

    def new_stages(self) -> list[Stage]:
        return [make() for make in self._make_stages]

    def _shown(self, token_id: int) -> str | None:
        """Returns the token as the vocabulary spells it; None where it adds nothing to a text: a special token, or an id that
        only the model has."""
        token = self._tokenizer.id_to_token(token_id)
        return None if token in self._special else token

    def special(self, token_id: int, shown: frozenset[str]) -> str | None:
        """Returns a special token as it is spelled, if it is one of those shown."""
        token: str | None = self._tokenizer.id_to_token(token_id)
        return token if token in shown else None

    def token_bytes(self, token_id: int) -> bytes:
        """Returns the token's own bytes, special tokens as they are spelled; none for an id that only the model has."""
        piece: str | bytes = self._tokenizer.id_to_token(token_id) or ""
        for stage in self._own_stages:
            piece = stage.own(piece)
        return piece.encode() if isinstance(piece, str) else piece


class Detokenizer:
    """Text of one list of token ids as it grows."""

    def __init__(self, texts: TokenTexts, shown_tokens: frozenset[str] = frozenset()) -> None:
        """`shown_tokens`: special tokens that are text."""
        self._texts = texts
        self._shown_tokens = shown_tokens
        self._stages = texts.new_stages()
        self._sent_chars = 0

    def push(self, token_id: int) -> str:
        """Returns the text that is certain now."""
        token = self._texts.shown(token_id)
        if token is None and self._shown_tokens:
            token = self._texts.special(token_id, self._shown_tokens)
        return "" if token is None else self._sent(self._through([token], self._stages))

    def flush(self) -> str:
        """Returns the rest of the text: an unfinished character comes out as U+FFFD."""
        pieces: list[str] = []
        for index, stage in enumerate(self._stages):
            pieces += self._through(stage.flush(), self._stages[index + 1 :])
        return self._sent(pieces)

    def offset_chars(self, token_id: int) -> int:
        """Returns where in the text the next token, `token_id`, begins: for one inside of a character, that character's start."""
        own = self._texts.token_bytes(token_id)
        continued = bool(own) and own[0] in _CONTINUATION_BYTES
        return self._sent_chars + sum(stage.held_chars(continued=continued) for stage in self._stages)

    def _sent(self, pieces: Iterable[str]) -> str:
        text = "".join(pieces)
        self._sent_chars += len(text)
        return text

    @staticmethod
    def _through(pieces: list[str], stages: list[Stage]) -> list[str]:
        for stage in stages:
            pieces = [out for piece in pieces for out in stage.push(piece)]
        return pieces


@lru_cache(maxsize=8)
def texts_of(tokenizer: Tokenizer) -> TokenTexts:
    """Returns a tokenizer's texts, made once. Raises UnknownDecoderError."""
    return TokenTexts(tokenizer)


def decoder_stages(tokenizer: Tokenizer) -> list[MakeStage]:
    """Returns what makes the stages of a tokenizer's decoder, in order. Raises UnknownDecoderError."""
    if tokenizer.decoder is None:
        return [Spaced]
    makers: list[MakeStage] = []
    fused = False
    for step in _steps(json.loads(tokenizer.decoder.__getstate__())):
        if step["type"] == "Fuse":
            fused = True
            continue
        maker = _after_fuse(step) if fused else _before_fuse(step)
        if maker is None:
            where = " after the tokens are fused" if fused else ""
            raise UnknownDecoderError(f"the decoder step {step} of the tokenizer cannot be followed token by token{where}")
        makers.append(maker)
        fused = fused or step["type"] == "ByteLevel"
    return makers


def _steps(decoder: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if decoder["type"] != "Sequence":
        return [decoder]
    return [step for inner in decoder["decoders"] for step in _steps(inner)]


def _before_fuse(step: Mapping[str, Any]) -> MakeStage | None:
    """Returns the stage of a step that sees every token; None for an unknown one."""
    match step:
        case {"type": "Replace"}:
            return partial(Replaced, _replace(step))
        case {"type": "Metaspace", "replacement": replacement, "prepend_scheme": scheme}:
            metaspace = decoders.Metaspace(replacement, prepend_scheme=scheme)
            return partial(Placed, metaspace, re.escape(replacement), " ")
        case {"type": "WordPiece", "prefix": prefix, "cleanup": cleanup}:
            return partial(Placed, decoders.WordPiece(prefix, cleanup), "^" + re.escape(prefix), "")
        case {"type": "BPEDecoder", "suffix": suffix}:
            return partial(WordEnds, suffix)
        case {"type": "Strip", "content": content, "start": start, "stop": 0}:
            return partial(Stripped, content, start, one_text=False)
        case {"type": "ByteFallback"}:
            return ByteRuns
        case {"type": "ByteLevel"}:
            return ByteCharacters
        case _:
            return None


def _after_fuse(step: Mapping[str, Any]) -> MakeStage | None:
    """Returns the stage of a step that sees all tokens as one text; None where a later part could change an earlier one."""
    match step:
        case {"type": "Replace", "pattern": {"String": pattern}} if len(pattern) == 1:
            return partial(Replaced, _replace(step))
        case {"type": "Strip", "content": content, "start": start, "stop": 0}:
            return partial(Stripped, content, start, one_text=True)
        case _:
            return None


def _replace(step: Mapping[str, Any]) -> decoders.Decoder:
    pattern = step["pattern"]
    return decoders.Replace(pattern["String"] if "String" in pattern else Regex(pattern["Regex"]), step["content"])
