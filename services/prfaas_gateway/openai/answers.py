"""Answers in OpenAI's form: events of a request in, chunks or a body out. Pure."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from prfaas.contracts.to_gateway import Failed, Finished, GenerateEvent, Started, TokenDetail, Tokens
from prfaas_gateway.openai.choices import Choices
from prfaas_gateway.openai.encoded_list import EncodedList
from prfaas_gateway.openai.errors import ApiError
from prfaas_gateway.openai.progress import Progress
from prfaas_gateway.openai.shapes import Shape, Whole
from prfaas_gateway.openai.types import AnswerBody, Choice, Usage

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, kw_only=True)
class AnswerHead:
    """Fields that every chunk of an answer repeats."""

    request_id: str
    created: int
    """Unix time of the answer's start, s."""
    model: str
    system_fingerprint: str
    shape: Shape

    def body(self, object_name: str, choices: list[Choice] | msgspec.Raw, usage: Usage | UnsetType | None) -> bytes:
        return msgspec.json.encode(
            AnswerBody(
                id=f"{self.shape.id_prefix}-{self.request_id}",
                object=object_name,
                created=self.created,
                model=self.model,
                system_fingerprint=self.system_fingerprint,
                choices=choices,
                usage=usage,
            )
        )


@dataclass(frozen=True, kw_only=True)
class UsageOptions:
    """Wishes of a client about `usage` in a stream."""

    last: bool = False
    """`include_usage`: the last chunk has the usage. Each chunk before it has `usage: null`."""
    continuous: bool = False
    """`continuous_usage_stats`: every chunk has the usage up to it."""
    report: bool = False
    """`x-prfaas-report: 1`: the usage has a field `prfaas` with the site of the prefill and figures of the KV transfer."""


@dataclass(kw_only=True)
class WholeAnswer:
    """One choice of an answer that is sent as one JSON body."""

    head: AnswerHead
    progress: Progress
    report: bool = False
    shows_logprobs: bool = True
    """False where log-probabilities are there only for `score`."""
    _whole: Whole[Any] = field(init=False)
    _logprobs_sum: float = field(init=False, default=0.0)
    _logprobs: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._whole = self.head.shape.whole()

    @property
    def score(self) -> float:
        """Mean log-probability of the answer's tokens, by which `best_of` chooses; an answer without tokens is the worst."""
        return self._logprobs_sum / self._logprobs if self._logprobs else -math.inf

    def handle(self, event: GenerateEvent) -> None:
        """Raises EventGapError."""
        self.progress.accept(event)
        match event:
            case Tokens():
                self._logprobs_sum += sum(detail.chosen.logprob for detail in event.details)
                self._logprobs += len(event.details)
                self._whole.add(event.text, event.details if self.shows_logprobs else ())
            case Finished():
                self._whole.add(event.text, ())
            case Started() | Failed():
                pass

    def body(self) -> list[bytes]:
        """Returns the body in pieces, none of which takes long to make or to send."""
        return whole_body([self], Choices([self.progress]))

    def choice(self, index: int) -> Iterator[bytes]:
        """Yields the choice in pieces."""
        finished = self.progress.finished
        assert finished is not None
        choice = replace(self._whole.choice(finished.finish_reason), index=index)
        return self._whole.long_list.fill(msgspec.json.encode(choice))


def whole_body(answers: Sequence[WholeAnswer], choices: Choices) -> list[bytes]:
    """Returns a body in pieces. `answers` are the choices to send, in order; `choices` all that were generated."""
    pieces = [piece for index, answer in enumerate(answers) for piece in (b"," if index else b"", *answer.choice(index))]
    first = answers[0]
    body = first.head.body(first.head.shape.body_object, EncodedList.HOLE, choices.usage(report=first.report))
    before, after = body.split(EncodedList.HOLE_BYTES)
    return [before, b"[", *(piece for piece in pieces if piece), b"]", after]


def best_of_each(answers: Sequence[WholeAnswer], *, per_prompt: int, kept: int) -> list[WholeAnswer]:
    """Returns the `kept` likeliest of each prompt's answers, the best first; of equals the one that was first."""
    chosen: list[WholeAnswer] = []
    for start in range(0, len(answers), per_prompt):
        chosen += sorted(answers[start : start + per_prompt], key=lambda answer: -answer.score)[:kept]
    return chosen


@dataclass(kw_only=True)
class StreamedAnswer:
    """One choice of an answer that is sent as server-sent events."""

    head: AnswerHead
    progress: Progress
    options: UsageOptions
    index: int = 0
    choices: Choices | None = None
    """All choices of the request; None: this one alone."""

    def __post_init__(self) -> None:
        self._choices = self.choices or Choices([self.progress])

    def handle(self, event: GenerateEvent) -> bytes:
        """Returns the bytes to send now, possibly none. Failed gives none: the caller ends the stream with its error.

        Raises EventGapError."""
        self.progress.accept(event)
        shape = self.head.shape
        match event:
            case Started():
                opening = shape.opening()
                return b"" if opening is None else self._chunk(opening)
            case Tokens():
                # A token that ends inside a character has no text yet, but with log-probabilities it still is news.
                return self._text(event.text, event.details) if event.text or event.details else b""
            case Finished():
                held_back = self._text(event.text, ()) if event.text else b""
                held_back += b"".join(map(self._chunk, shape.closing()))
                ending = held_back + self._chunk(shape.ending(event.finish_reason))
                return ending + self._last_usage() + DONE if self._choices.over else ending
            case Failed():
                return b""

    def failed(self, error: ApiError) -> bytes:
        """Returns the event that ends a stream with an error. No `[DONE]` follows it."""
        return error_event(error.encode())

    def _text(self, text: str, details: tuple[TokenDetail, ...]) -> bytes:
        return b"".join(map(self._chunk, self.head.shape.deltas(text, details)))

    def _chunk(self, choice: Choice) -> bytes:
        usage: Usage | UnsetType | None = UNSET
        if self.options.continuous:
            usage = self._choices.usage()
        elif self.options.last:
            usage = None
        if self.index:
            choice = replace(choice, index=self.index)
        return _sse(self.head.body(self.head.shape.chunk_object, [choice], usage))

    def _last_usage(self) -> bytes:
        if not self.options.last:
            return b""
        return _sse(self.head.body(self.head.shape.chunk_object, [], self._choices.usage(report=self.options.report)))


def _sse(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def error_event(body: bytes) -> bytes:
    """Returns the event that ends a stream with an error. No `[DONE]` follows it."""
    return _sse(body)
