"""The two shapes of one answer: chat and plain completion, whole or in chunks."""

from collections.abc import Sequence
from typing import Protocol

from prfaas.contracts.to_gateway import TokenDetail
from prfaas_gateway.openai.encoded_list import EncodedList
from prfaas_gateway.openai.logprobs import ChatLogprobsGathered, CompletionLogprobsGathered
from prfaas_gateway.openai.types import (
    AssistantMessage,
    ChatChoice,
    ChatChunkChoice,
    ChatDelta,
    Choice,
    CompletionChoice,
)


class Whole(Protocol):
    """An answer that is sent in one body, gathered until it is complete."""

    def add(self, text: str, details: Sequence[TokenDetail]) -> None:
        """Appends the text and the log-probabilities of one event."""
        ...

    def choice(self, finish_reason: str) -> Choice:
        """Returns all that was added as the only entry of `choices`, with EncodedList.HOLE for the entries of `long_list`."""
        ...

    @property
    def long_list(self) -> EncodedList: ...


class Shape(Protocol):
    """The spelling of answers at one endpoint."""

    id_prefix: str
    body_object: str
    chunk_object: str

    def opening(self) -> Choice | None:
        """Returns the chunk before the first text, where the shape has one."""
        ...

    def delta(self, text: str, details: Sequence[TokenDetail]) -> Choice: ...

    def ending(self, finish_reason: str) -> Choice: ...

    def whole(self) -> Whole:
        """Returns an empty answer."""
        ...


class CompletionShape:
    """Answers of `/v1/completions`."""

    id_prefix = "cmpl"
    body_object = "text_completion"
    chunk_object = "text_completion"

    def opening(self) -> Choice | None:
        return None

    def delta(self, text: str, details: Sequence[TokenDetail]) -> Choice:
        logprobs = CompletionLogprobsGathered()
        logprobs.add(details)
        return CompletionChoice(text=text, logprobs=logprobs.block(logprobs.entries.raw()))

    def ending(self, finish_reason: str) -> Choice:
        return CompletionChoice(text="", finish_reason=finish_reason)

    def whole(self) -> Whole:
        return _WholeCompletion()


class ChatShape:
    """Answers of `/v1/chat/completions`."""

    id_prefix = "chatcmpl"
    body_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def opening(self) -> Choice | None:
        return ChatChunkChoice(delta=ChatDelta(role="assistant", content=""))

    def delta(self, text: str, details: Sequence[TokenDetail]) -> Choice:
        logprobs = ChatLogprobsGathered()
        logprobs.add(details)
        return ChatChunkChoice(delta=ChatDelta(content=text), logprobs=logprobs.block(logprobs.entries.raw()))

    def ending(self, finish_reason: str) -> Choice:
        return ChatChunkChoice(delta=ChatDelta(), finish_reason=finish_reason)

    def whole(self) -> Whole:
        return _WholeChat()


class _WholeCompletion:
    def __init__(self) -> None:
        self._texts: list[str] = []
        self._logprobs = CompletionLogprobsGathered()

    def add(self, text: str, details: Sequence[TokenDetail]) -> None:
        self._texts.append(text)
        self._logprobs.add(details)

    @property
    def long_list(self) -> EncodedList:
        return self._logprobs.entries

    def choice(self, finish_reason: str) -> Choice:
        return CompletionChoice(
            text="".join(self._texts), logprobs=self._logprobs.block(EncodedList.HOLE), finish_reason=finish_reason
        )


class _WholeChat:
    def __init__(self) -> None:
        self._texts: list[str] = []
        self._logprobs = ChatLogprobsGathered()

    def add(self, text: str, details: Sequence[TokenDetail]) -> None:
        self._texts.append(text)
        self._logprobs.add(details)

    @property
    def long_list(self) -> EncodedList:
        return self._logprobs.entries

    def choice(self, finish_reason: str) -> Choice:
        message = AssistantMessage(content="".join(self._texts))
        return ChatChoice(message=message, logprobs=self._logprobs.block(EncodedList.HOLE), finish_reason=finish_reason)
