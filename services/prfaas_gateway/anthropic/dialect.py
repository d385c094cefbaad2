"""The words of `/v1/messages`."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from prfaas_gateway.anthropic.answers import StreamedMessage, WholeMessage
from prfaas_gateway.anthropic.errors import error_body
from prfaas_gateway.anthropic.requests import parse_messages
from prfaas_gateway.dialect import Asked
from prfaas_gateway.openai.errors import ApiError
from prfaas_gateway.openai.progress import Progress
from prfaas_gateway.openai.types import ChatRequest
from prfaas_gateway.openai.unknown_fields import UnknownFields
from prfaas_gateway.sse import named_event


@dataclass(frozen=True)
class MessagesDialect:
    parse: Callable[[bytes, UnknownFields | None], ChatRequest]
    ping: bytes = named_event("ping")

    def streamed(self, asked: Asked, progress: Progress) -> StreamedMessage:
        return StreamedMessage(asked, progress)

    def whole(self, asked: Asked, progress: Progress) -> WholeMessage:
        return WholeMessage(asked, progress)

    def error(self, error: ApiError) -> bytes:
        return msgspec.json.encode(error_body(error))


MESSAGES = MessagesDialect(parse_messages)
