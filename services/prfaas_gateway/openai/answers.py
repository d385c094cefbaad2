"""A request's events in, OpenAI's chunks or body out. Pure: no socket, no clock."""

from dataclasses import dataclass, field

import msgspec
from msgspec import UNSET, UnsetType

from prfaas.contracts.to_gateway import Failed, Finished, GenerateEvent, Started, TokenDetail, Tokens
from prfaas_gateway.openai.progress import Progress
from prfaas_gateway.openai.shapes import Shape, Whole
from prfaas_gateway.openai.types import AnswerBody, Choice, Usage

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, kw_only=True)
class AnswerHead:
    """What every chunk of an answer repeats."""

    request_id: str
    created: int
    """Unix time, s."""
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
    last: bool = False
    """`include_usage`: a last chunk with the usage; until then each chunk says `usage: null`."""
    continuous: bool = False
    """`continuous_usage_stats`: the usage so far in every chunk."""
    report: bool = False
    """`usage.prfaas`: where the prefill ran and how its KV came."""


@dataclass(kw_only=True)
class WholeAnswer:
    """One JSON body, once everything is there."""

    head: AnswerHead
    progress: Progress
    report: bool = False
    _whole: Whole = field(init=False)

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
    """Server-sent events, as the answer's own come."""

    head: AnswerHead
    progress: Progress
    options: UsageOptions

    def handle(self, event: GenerateEvent) -> bytes:
        """What to send now, possibly nothing. A Failed gives nothing: how the stream ends then is for the caller to say.

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
                return held_back + self._chunk(shape.ending(event.finish_reason)) + self._last_usage() + DONE
            case Failed():
                return b""

    def _text(self, text: str, details: tuple[TokenDetail, ...]) -> bytes:
        return self._chunk(self.head.shape.delta(text, details))

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
    """An error after the first byte of a stream: the last thing that is sent, without [DONE]."""
    return _sse(body)
