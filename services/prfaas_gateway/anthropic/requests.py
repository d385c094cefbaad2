"""Requests in Anthropic's words, as requests of a chat. Pure."""

from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from prfaas.contracts.codes import FailureCode
from prfaas_gateway.anthropic.content import chat_messages, system_message
from prfaas_gateway.anthropic.unsupported import INERT, INERT_IN_TOOL, UNSUPPORTED, UNSUPPORTED_IN_TOOL
from prfaas_gateway.openai.errors import invalid
from prfaas_gateway.openai.fields import converted, object_of, plain_fields, take_inert
from prfaas_gateway.openai.tool_types import FunctionName, FunctionSpec, NamedFunction, NamedTool, Tool, ToolChoice
from prfaas_gateway.openai.types import ChatMessage, ChatRequest, CountTokensRequest, StopString, Temperature, TokenCount, TopP
from prfaas_gateway.openai.unknown_fields import UnknownFields
from prfaas_gateway.openai.unsupported import take_unsupported

VERBATIM: Final = frozenset(["messages", "system", "tools"])
"""Fields that hold JSON schemas or arguments, in which a null says something."""
MAX_STOP_SEQUENCES: Final = 64

Request = TypeVar("Request", bound="CountTokensBody")


class MessagesToolChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: Literal["auto", "any", "tool", "none"]
    name: FunctionName | None = None
    disable_parallel_tool_use: bool = False


class ToolSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: FunctionName
    input_schema: dict[str, Any]
    type: Literal["custom"] = "custom"
    description: str | None = None
    strict: bool | None = None


class CountTokensBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fields of both endpoints: those that are the prompt."""

    model: str
    messages: Annotated[list[dict[str, Any]], Meta(min_length=1)]
    system: str | list[dict[str, Any]] = ""
    tools: list[dict[str, Any]] = []
    tool_choice: MessagesToolChoice | None = None


class MessagesBody(CountTokensBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    max_tokens: TokenCount
    stream: bool = False
    stop_sequences: Annotated[list[StopString], Meta(max_length=MAX_STOP_SEQUENCES)] = []
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None


def parse_messages(body: bytes, unknown: UnknownFields | None = None) -> ChatRequest:
    """Puts fields that no API has into `unknown`; None: refuses them. Raises ApiError."""
    request = _converted(body, MessagesBody, unknown)
    choice = request.tool_choice
    messages = _messages(request, unknown)
    goes_on = _goes_on(messages[-1])
    return ChatRequest(
        model=request.model,
        messages=messages,
        tools=_tools(request, unknown),
        tool_choice=None if choice is None else _choice(choice),
        parallel_tool_calls=choice is None or not choice.disable_parallel_tool_use,
        add_generation_prompt=not goes_on,
        continue_final_message=goes_on,
        max_tokens=request.max_tokens,
        stream=request.stream,
        stop=request.stop_sequences or None,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
    )


def parse_count(body: bytes, unknown: UnknownFields | None = None) -> CountTokensRequest:
    """Puts fields that no API has into `unknown`; None: refuses them. Raises ApiError."""
    request = _converted(body, CountTokensBody, unknown)
    messages = _messages(request, unknown)
    goes_on = _goes_on(messages[-1])
    if request.tool_choice is not None:
        _choice(request.tool_choice)
    return CountTokensRequest(
        model=request.model,
        messages=messages,
        tools=_tools(request, unknown),
        add_generation_prompt=not goes_on,
        continue_final_message=goes_on,
    )


def _converted(body: bytes, kind: type[Request], unknown: UnknownFields | None) -> Request:
    fields = object_of(body, VERBATIM)
    take_inert(fields, INERT)
    return converted(take_unsupported(fields, UNSUPPORTED), kind, unknown)


def _messages(request: CountTokensBody, unknown: UnknownFields | None) -> list[ChatMessage]:
    told = (chat_messages(message, f"messages[{index}]", unknown) for index, message in enumerate(request.messages))
    return [*system_message(request.system, unknown), *(message for messages in told for message in messages)]


def _tools(request: CountTokensBody, unknown: UnknownFields | None) -> list[Tool]:
    return [_tool(tool, f"tools[{index}]", unknown) for index, tool in enumerate(request.tools)]


def _goes_on(last: ChatMessage) -> bool:
    """Tells whether the answer goes on with the last message. Raises ApiError for one that cannot be gone on with."""
    if last.role != "assistant":
        return False
    if last.tool_calls or not last.text.strip():
        message = "`messages` ends with the assistant's, which the answer goes on with: it must be text, and no call."
        raise invalid(message, "messages", FailureCode.INVALID_VALUE)
    return True


def _tool(tool: dict[str, Any], where: str, unknown: UnknownFields | None) -> Tool:
    kind = tool.get("type")
    if kind not in (None, "custom"):
        message = f"`{where}` is of type `{kind}`, which is not served; only `custom` is."
        raise invalid(message, f"{where}.type", FailureCode.UNSUPPORTED_VALUE)
    fields = plain_fields(tool, {"input_schema"})
    take_inert(fields, INERT_IN_TOOL, where)
    spec = converted(take_unsupported(fields, UNSUPPORTED_IN_TOOL, where), ToolSpec, unknown, where)
    function = FunctionSpec(name=spec.name, description=spec.description, parameters=spec.input_schema, strict=spec.strict)
    return Tool(type="function", function=function)


def _choice(choice: MessagesToolChoice) -> ToolChoice:
    if (choice.type == "tool") != (choice.name is not None):
        message = "`tool_choice.name` names the tool of the type `tool`, which needs one; other types have none."
        raise invalid(message, "tool_choice.name", FailureCode.INVALID_VALUE)
    if choice.name is not None:
        return NamedTool(type="function", function=NamedFunction(name=choice.name))
    return "required" if choice.type == "any" else "none" if choice.type == "none" else "auto"
