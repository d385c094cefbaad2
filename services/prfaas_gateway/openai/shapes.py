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

    def delta(self, text: str, details: Sequence[TokenDetail]) -> Choice: ...

    def ending(self, finish_reason: str) -> Choice: ...

    def whole(self, text: str, details: Sequence[TokenDetail], finish_reason: str) -> Choice: ...


class CompletionShape:
    id_prefix = "cmpl"
    body_object = "text_completion"
    chunk_object = "text_completion"

    def opening(self) -> Choice | None:
        return None

    def delta(self, text: str, details: Sequence[TokenDetail]) -> Choice:
        return CompletionChoice(text=text, logprobs=_completion_logprobs(details))

    def ending(self, finish_reason: str) -> Choice:
        return CompletionChoice(text="", finish_reason=finish_reason)

    def whole(self, text: str, details: Sequence[TokenDetail], finish_reason: str) -> Choice:
        return CompletionChoice(text=text, logprobs=_completion_logprobs(details), finish_reason=finish_reason)


class ChatShape:
    id_prefix = "chatcmpl"
    body_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def opening(self) -> Choice | None:
        return ChatChunkChoice(delta=ChatDelta(role="assistant", content=""))

    def delta(self, text: str, details: Sequence[TokenDetail]) -> Choice:
        return ChatChunkChoice(delta=ChatDelta(content=text), logprobs=_chat_logprobs(details))

    def ending(self, finish_reason: str) -> Choice:
        return ChatChunkChoice(delta=ChatDelta(), finish_reason=finish_reason)

    def whole(self, text: str, details: Sequence[TokenDetail], finish_reason: str) -> Choice:
        return ChatChoice(message=AssistantMessage(content=text), logprobs=_chat_logprobs(details), finish_reason=finish_reason)


def _completion_logprobs(details: Sequence[TokenDetail]) -> CompletionLogprobs | None:
    if not details:
        return None
    tops = [_tops_by_text(detail) if detail.top else {} for detail in details]
    return CompletionLogprobs(
        tokens=[_completion_token(detail.chosen) for detail in details],
        token_logprobs=[detail.chosen.logprob for detail in details],
        # `logprobs: 0` asks for the chosen tokens only.
        top_logprobs=tops if any(tops) else None,
        text_offset=[detail.text_offset for detail in details],
    )


def _tops_by_text(detail: TokenDetail) -> dict[str, float]:
    """The likeliest tokens and the chosen one, by their text. Of several with one text the chosen one has it, else the likeliest;
    the others go by `token_id:N`, as vLLM names tokens by id."""
    chosen_text = _completion_token(detail.chosen)
    tops: dict[str, float] = {}
    for item in (*detail.top, detail.chosen):
        text = _completion_token(item)
        if item.token_id != detail.chosen.token_id and (text == chosen_text or text in tops):
            text = f"token_id:{item.token_id}"
        tops[text] = item.logprob
    return tops


def _completion_token(item: TokenLogprob) -> str:
    """A part of a character is `bytes:` and its bytes, as OpenAI's completions spell it."""
    return item.token if bytes(item.bytes) in (b"", item.token.encode()) else f"bytes:{item.token}"


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
