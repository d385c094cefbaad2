"""Bodies of Anthropic's answers."""

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from prfaas_gateway.openai.types import TransferUsage


class MessageUsage(msgspec.Struct, frozen=True, kw_only=True):
    input_tokens: int
    """Tokens of the prompt that were computed for this answer."""
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int
    output_tokens: int
    prfaas: TransferUsage | UnsetType = UNSET


class Message(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[dict[str, Any]]
    """Blocks of type `text` or `tool_use`."""
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: MessageUsage


class MessageEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Data of an event of a stream, with what its type has beside this."""

    type: str


class MessageError(msgspec.Struct, frozen=True, kw_only=True):
    type: str
    message: str


class MessageErrorResponse(msgspec.Struct, frozen=True, kw_only=True):
    type: Literal["error"] = "error"
    error: MessageError
