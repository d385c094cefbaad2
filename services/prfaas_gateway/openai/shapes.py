"""The two shapes of one answer: chat and plain completion, whole or in chunks."""

from collections.abc import Sequence
from typing import Protocol

from prfaas.contracts.to_gateway import TokenDetail, TokenLogprob
from prfaas_gateway.openai.types import (
    AssistantMessage,
    ChatChoice,
    ChatChunkChoice,
    ChatDelta,
    ChatLogprob,
    ChatLogprobs,
    Choice,
    CompletionChoice,
    CompletionLogprobs,
    TopLogprob,
)


class Shape(Protocol):
    id_prefix: str
    body_object: str
    chunk_object: str

    def opening(self) -> Choice | None:
        """The chunk before the first text, where the shape has one."""
        ...

    def delta(self, text: str, details: Sequence[TokenDetail], offset_chars: int) -> Choice: ...

    def ending(self, finish_reason: str) -> Choice: ...

    def whole(self, text: str, details: Sequence[TokenDetail], finish_reason: str) -> Choice: ...


class CompletionShape:
    id_prefix = "cmpl"
    body_object = "text_completion"
    chunk_object = "text_completion"

    def opening(self) -> Choice | None:
        return None

    def delta(self, text: str, details: Sequence[TokenDetail], offset_chars: int) -> Choice:
        return CompletionChoice(text=text, logprobs=_completion_logprobs(details, offset_chars))

    def ending(self, finish_reason: str) -> Choice:
        return CompletionChoice(text="", finish_reason=finish_reason)

    def whole(self, text: str, details: Sequence[TokenDetail], finish_reason: str) -> Choice:
        return CompletionChoice(text=text, logprobs=_completion_logprobs(details, 0), finish_reason=finish_reason)


class ChatShape:
    id_prefix = "chatcmpl"
    body_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def opening(self) -> Choice | None:
        return ChatChunkChoice(delta=ChatDelta(role="assistant", content=""))

    def delta(self, text: str, details: Sequence[TokenDetail], offset_chars: int) -> Choice:
        return ChatChunkChoice(delta=ChatDelta(content=text), logprobs=_chat_logprobs(details))

    def ending(self, finish_reason: str) -> Choice:
        return ChatChunkChoice(delta=ChatDelta(), finish_reason=finish_reason)

    def whole(self, text: str, details: Sequence[TokenDetail], finish_reason: str) -> Choice:
        return ChatChoice(message=AssistantMessage(content=text), logprobs=_chat_logprobs(details), finish_reason=finish_reason)


def _completion_logprobs(details: Sequence[TokenDetail], offset_chars: int) -> CompletionLogprobs | None:
    if not details:
        return None
    offsets = []
    for detail in details:
        offsets.append(offset_chars)
        offset_chars += len(detail.chosen.token)
    tops = [{item.token: item.logprob for item in (*detail.top, detail.chosen)} if detail.top else {} for detail in details]
    return CompletionLogprobs(
        tokens=[detail.chosen.token for detail in details],
        token_logprobs=[detail.chosen.logprob for detail in details],
        # `logprobs: 0` asks for the chosen tokens only.
        top_logprobs=tops if any(tops) else None,
        text_offset=offsets,
    )


def _chat_logprobs(details: Sequence[TokenDetail]) -> ChatLogprobs | None:
    if not details:
        return None
    return ChatLogprobs(content=[_chat_logprob(detail) for detail in details])


def _chat_logprob(detail: TokenDetail) -> ChatLogprob:
    top = [TopLogprob(token=item.token, logprob=item.logprob, bytes=_bytes(item)) for item in detail.top]
    chosen = detail.chosen
    return ChatLogprob(token=chosen.token, logprob=chosen.logprob, bytes=_bytes(chosen), top_logprobs=top)


def _bytes(item: TokenLogprob) -> tuple[int, ...] | None:
    return item.bytes or None
