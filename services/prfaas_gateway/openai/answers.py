"""Answers in OpenAI's form: events of a request in, chunks or a body out. Pure."""

from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from prfaas.contracts.to_gateway import Failed, Finished, GenerateEvent, Started, TokenDetail, Tokens
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

    def body(self, object_name: str, choices: list[Choice], usage: Usage | UnsetType | None) -> bytes:
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
    """An answer that is sent as one JSON body."""

    head: AnswerHead
    progress: Progress
    report: bool = False
    _whole: Whole[Any] = field(init=False)

    def __post_init__(self) -> None:
        self._whole = self.head.shape.whole()

    def handle(self, event: GenerateEvent) -> None:
        """Raises EventGapError."""
        self.progress.accept(event)
        match event:
            case Tokens():
                self._whole.add(event.text, event.details)
            case Finished():
                self._whole.add(event.text, ())
            case Started() | Failed():
                pass

    def body(self) -> list[bytes]:
        """Returns the body in pieces, none of which takes long to make or to send."""
        finished = self.progress.finished
        assert finished is not None
        choice = self._whole.choice(finished.finish_reason)
        body = self.head.body(self.head.shape.body_object, [choice], self.progress.usage(report=self.report))
        return list(self._whole.long_list.fill(body))


@dataclass(kw_only=True)
class StreamedAnswer:
    """An answer that is sent as server-sent events."""

    head: AnswerHead
    progress: Progress
    options: UsageOptions

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
                return held_back + self._chunk(shape.ending(event.finish_reason)) + self._last_usage() + DONE
            case Failed():
                return b""

    def _text(self, text: str, details: tuple[TokenDetail, ...]) -> bytes:
        return b"".join(map(self._chunk, self.head.shape.deltas(text, details)))

    def _chunk(self, choice: Choice) -> bytes:
        usage: Usage | UnsetType | None = UNSET
        if self.options.continuous:
            usage = self.progress.usage()
        elif self.options.last:
            usage = None
        return _sse(self.head.body(self.head.shape.chunk_object, [choice], usage))

    def _last_usage(self) -> bytes:
        if not self.options.last:
            return b""
        return _sse(self.head.body(self.head.shape.chunk_object, [], self.progress.usage(report=self.options.report)))


def _sse(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def error_event(body: bytes) -> bytes:
    """Returns the event that ends a stream with an error. No `[DONE]` follows it."""
    return _sse(body)
