"""The two shapes of one answer: chat and plain completion, whole or in chunks."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from prfaas.contracts.to_gateway import TokenDetail
from prfaas_gateway.openai.encoded_list import EncodedList
from prfaas_gateway.openai.logprobs import ChatLogprobsGathered, CompletionLogprobsGathered
from prfaas_gateway.openai.types import (
    AssistantMessage,
    ChatChoice,
    ChatChunkChoice,
    ChatDelta,
    ChatLogprobs,
    Choice,
    CompletionChoice,
    CompletionLogprobs,
)

Block = TypeVar("Block", bound=ChatLogprobs | CompletionLogprobs)
"""The field `logprobs` of a choice."""
Block_co = TypeVar("Block_co", bound=ChatLogprobs | CompletionLogprobs, covariant=True)


class LogprobsGathered(Protocol[Block_co]):
    """Log-probabilities of an answer in the spelling of one endpoint."""

    entries: EncodedList

    def add(self, details: Sequence[TokenDetail]) -> None: ...

    def block(self, entries: msgspec.Raw) -> Block_co | None: ...


class Whole(Generic[Block]):
    """An answer that is sent in one body, gathered until it is complete."""

    def __init__(self, logprobs: LogprobsGathered[Block], spell: Callable[[str, Block | None, str], Choice]) -> None:
        """`spell`: makes a choice of a text, its log-probabilities and a finish reason."""
        self._texts: list[str] = []
        self._logprobs = logprobs
        self._spell = spell

    @property
    def long_list(self) -> EncodedList:
        return self._logprobs.entries

    def add(self, text: str, details: Sequence[TokenDetail]) -> None:
        """Appends the text and the log-probabilities of one event."""
        self._texts.append(text)
        self._logprobs.add(details)

    def choice(self, finish_reason: str) -> Choice:
        """Returns all that was added as the only entry of `choices`, with EncodedList.HOLE for the entries of `long_list`."""
        return self._spell("".join(self._texts), self._logprobs.block(EncodedList.HOLE), finish_reason)


class Shape(Protocol):
    """The spelling of answers at one endpoint."""

    id_prefix: str
    body_object: str
    chunk_object: str

    def opening(self) -> Choice | None:
        """Returns the chunk before the first text, where the shape has one."""
        ...

    def deltas(self, text: str, details: Sequence[TokenDetail]) -> list[Choice]:
        """Returns the chunks of a text: one, unless the shape holds some of it back or cuts it up."""
        ...

    def closing(self) -> list[Choice]:
        """Returns the chunks of what was held back; no text follows."""
        ...

    def ending(self, finish_reason: str) -> Choice: ...

    def whole(self) -> Whole[Any]:
        """Returns an empty answer."""
        ...


class CompletionShape:
    """Answers of `/v1/completions`."""

    id_prefix = "cmpl"
    body_object = "text_completion"
    chunk_object = "text_completion"

    def opening(self) -> Choice | None:
        return None

    def deltas(self, text: str, details: Sequence[TokenDetail]) -> list[Choice]:
        logprobs = CompletionLogprobsGathered()
        logprobs.add(details)
        return [CompletionChoice(text=text, logprobs=logprobs.block(logprobs.entries.raw()))]

    def closing(self) -> list[Choice]:
        return []

    def ending(self, finish_reason: str) -> Choice:
        return CompletionChoice(text="", finish_reason=finish_reason)

    def whole(self) -> Whole[CompletionLogprobs]:
        return Whole(CompletionLogprobsGathered(), _completion_choice)


class ChatShape:
    """Answers of `/v1/chat/completions`."""

    id_prefix = "chatcmpl"
    body_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def opening(self) -> Choice | None:
        return ChatChunkChoice(delta=ChatDelta(role="assistant", content=""))

    def deltas(self, text: str, details: Sequence[TokenDetail]) -> list[Choice]:
        logprobs = ChatLogprobsGathered()
        logprobs.add(details)
        return [ChatChunkChoice(delta=ChatDelta(content=text), logprobs=logprobs.block(logprobs.entries.raw()))]

    def closing(self) -> list[Choice]:
        return []

    def ending(self, finish_reason: str) -> Choice:
        return ChatChunkChoice(delta=ChatDelta(), finish_reason=finish_reason)

    def whole(self) -> Whole[ChatLogprobs]:
        return Whole(ChatLogprobsGathered(), _chat_choice)


def _completion_choice(text: str, logprobs: CompletionLogprobs | None, finish_reason: str) -> Choice:
    return CompletionChoice(text=text, logprobs=logprobs, finish_reason=finish_reason)


def _chat_choice(text: str, logprobs: ChatLogprobs | None, finish_reason: str) -> Choice:
    return ChatChoice(message=AssistantMessage(content=text), logprobs=logprobs, finish_reason=finish_reason)
