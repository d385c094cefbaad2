"""Bodies of the Responses API's answers."""

from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from prfaas_gateway.openai.responses.requests import FunctionChoice, FunctionTool, TextFormat
from prfaas_gateway.openai.types import TransferUsage

SERVER_ERROR: Final = "server_error"
Status = Literal["in_progress", "completed", "incomplete", "failed"]


class InputTokensDetails(msgspec.Struct, frozen=True, kw_only=True):
    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(msgspec.Struct, frozen=True, kw_only=True):
    reasoning_tokens: int = 0


class ResponseUsage(msgspec.Struct, frozen=True, kw_only=True):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    total_tokens: int
    prfaas: TransferUsage | UnsetType = UNSET


class ResponseError(msgspec.Struct, frozen=True, kw_only=True):
    code: str
    """One of those that OpenAI's clients know: SERVER_ERROR, or FailureCode.RATE_LIMIT_EXCEEDED."""
    message: str


class IncompleteDetails(msgspec.Struct, frozen=True, kw_only=True):
    reason: str = "max_output_tokens"


class NoReasoning(msgspec.Struct, frozen=True, kw_only=True):
    effort: None = None
    summary: None = None


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """One answer, with what it repeats of its request."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    """Unix time, s."""
    status: Status
    background: bool = False
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None = None
    metadata: dict[str, str]
    model: str
    output: list[dict[str, Any]]
    """Items of type `message` or `function_call`."""
    parallel_tool_calls: bool
    previous_response_id: str | None = None
    reasoning: NoReasoning = NoReasoning()
    service_tier: str = "default"
    store: bool = False
    temperature: float
    text: dict[str, TextFormat]
    tool_choice: str | FunctionChoice
    tools: list[FunctionTool]
    top_logprobs: int = 0
    top_p: float
    truncation: str = "disabled"
    usage: ResponseUsage | None
    """None while it is in progress."""


class ResponseEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Data of an event of a stream, with what its type has beside these."""

    type: str
    sequence_number: int
