"""The two endpoints whose words are the core's own: plain completions and chats."""

from collections.abc import Callable
from dataclasses import dataclass

from prfaas_gateway.dialect import Asked
from prfaas_gateway.openai.answers import AnswerHead, StreamedAnswer, UsageOptions, WholeAnswer
from prfaas_gateway.openai.errors import ApiError
from prfaas_gateway.openai.progress import Progress
from prfaas_gateway.openai.shapes import ChatShape, CompletionShape, Shape
from prfaas_gateway.openai.tool_shape import ToolChatShape
from prfaas_gateway.openai.types import ChatRequest, CompletionRequest
from prfaas_gateway.openai.unknown_fields import UnknownFields
from prfaas_gateway.openai.validation import parse_chat, parse_completion


@dataclass(frozen=True)
class CompletionsDialect:
    """One of the two."""

    parse: Callable[[bytes, UnknownFields | None], ChatRequest | CompletionRequest]
    shape: Shape
    ping: bytes = b""

    def streamed(self, asked: Asked, progress: Progress) -> StreamedAnswer:
        return StreamedAnswer(head=self.head(asked), progress=progress, options=usage_options(asked))

    def whole(self, asked: Asked, progress: Progress) -> WholeAnswer:
        return WholeAnswer(head=self.head(asked), progress=progress, report=asked.report)

    def error(self, error: ApiError) -> bytes:
        return error.encode()

    def head(self, asked: Asked) -> AnswerHead:
        return AnswerHead(
            request_id=asked.request_id,
            created=asked.created,
            model=asked.model,
            system_fingerprint=asked.system_fingerprint,
            shape=self.shape if asked.tool_use is None else ToolChatShape(asked.tool_use),
        )


def usage_options(asked: Asked) -> UsageOptions:
    options = asked.request.stream_options
    if options is None:
        return UsageOptions()
    return UsageOptions(last=options.include_usage, continuous=options.continuous_usage_stats, report=asked.report)


CHAT = CompletionsDialect(parse_chat, ChatShape())
COMPLETIONS = CompletionsDialect(parse_completion, CompletionShape())
