"""A chat's answer as a gateway streams it: lines in, text out, and at the end a line of where its prompt was prefilled."""

from typing import Final

import msgspec

from prfaas.console.words import plain, seconds, size
from prfaas.contracts.terms import Outcome

_DATA: Final = b"data:"
_KEPT: Final = frozenset("\n\t")


class AnswerError(Exception):
    """Raised when there is no answer, or no whole one; the message is a sentence without its full stop."""


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    delta: _Delta = _Delta()
    finish_reason: str | None = None


class Placed(msgspec.Struct, frozen=True):
    """Field `usage.prfaas`."""

    outcome: str
    prefill_site: str
    reason: str
    transfer: dict[str, float] = {}


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prfaas: Placed | None = None


class _Error(msgspec.Struct, frozen=True):
    message: str


class _Chunk(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Error | None = None


class ErrorAnswer(msgspec.Struct, frozen=True):
    """A refusal in OpenAI's shape."""

    error: _Error


class Answer:
    """One answer, from the lines of its stream. Pure."""

    def __init__(self) -> None:
        self.text = ""
        """Text so far, as it came."""
        self.complete = False
        self._finish_reason: str | None = None
        self._usage: _Usage | None = None

    def take(self, line: bytes) -> str:
        """Takes a line of the stream. Returns the text that it brings. Raises AnswerError."""
        if not line.startswith(_DATA):
            return ""  # a comment, or the blank line after an event
        data = line.removeprefix(_DATA).strip()
        if data == b"[DONE]":
            self.complete = True
            return ""
        try:
            chunk = msgspec.json.decode(data, type=_Chunk)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise AnswerError("a part of the answer is not of OpenAI's API") from error
        if chunk.error is not None:
            raise AnswerError(sentence(chunk.error.message))
        self._usage = chunk.usage or self._usage
        brought = ""
        for choice in chunk.choices:
            brought += choice.delta.content or ""
            self._finish_reason = choice.finish_reason or self._finish_reason
        self.text += brought
        return brought

    def last_line(self, ttft_s: float | None) -> str:
        """Returns where the prompt was prefilled and why, its bytes over the link, and the time to the first token."""
        usage = self._usage or _Usage()
        parts = [f"{_where(usage.prfaas)}; {_over_link(usage.prfaas)}"] if usage.prfaas else ["the server does not say where"]
        parts.append(f"first token after {seconds(ttft_s)}" if ttft_s is not None else "no text")
        parts.append(f"{usage.prompt_tokens:,} + {usage.completion_tokens:,} tokens")
        if self._finish_reason == "length":
            parts.append("cut off for its length")
        return plain(f"prefilled: {'; '.join(parts)}")


def _where(placed: Placed) -> str:
    return f"at {placed.prefill_site} ({placed.outcome}: {placed.reason})"


def _over_link(placed: Placed) -> str:
    """Only an offloaded prompt's KV crosses a link: a fallback is prefilled again in the site that decodes it."""
    if placed.outcome == Outcome.OFFLOADED:
        return f"{size(placed.transfer.get('bytes', 0))} over the link"
    return "nothing kept of what crossed a link" if placed.outcome.startswith("fallback") else "nothing over a link"


def shown(text: str) -> str:
    """Returns an answer's text without what a terminal would obey, its lines kept."""
    return "".join(char if char in _KEPT else plain(char) for char in text)


def sentence(message: str) -> str:
    """Returns another's message as one line without its full stop."""
    return plain(" ".join(message.split())).rstrip(".")
