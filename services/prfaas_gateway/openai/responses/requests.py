"""Requests of the Responses API, as requests of a chat. Pure."""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from prfaas.contracts.codes import FailureCode
from prfaas_gateway.openai.errors import invalid
from prfaas_gateway.openai.fields import converted, missing, object_of, plain_fields, take_inert
from prfaas_gateway.openai.responses.items import chat_messages
from prfaas_gateway.openai.responses.unsupported import (
    INERT,
    UNSUPPORTED,
    UNSUPPORTED_IN_STREAM_OPTIONS,
    UNSUPPORTED_IN_TEXT,
    UNSUPPORTED_IN_TOOL,
)
from prfaas_gateway.openai.structured import JsonSchemaFormat, ResponseFormat
from prfaas_gateway.openai.tool_types import FunctionName, FunctionSpec, NamedFunction, NamedTool, Tool, ToolChoice
from prfaas_gateway.openai.types import ChatMessage, ChatRequest, Temperature, TokenCount, TopP
from prfaas_gateway.openai.unknown_fields import UnknownFields
from prfaas_gateway.openai.unsupported import take_unsupported

VERBATIM: Final = frozenset(["input", "text", "tools"])
"""ResponsesBody that hold JSON schemas, in which a null says something, or are looked at part by part."""
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]],
    Meta(max_length=16),
]


class Text(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: Any = None


class TextFormat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    schema: dict[str, Any] | bool | None = None
    description: str | None = None
    strict: bool | None = None


class FunctionTool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: Literal["function"]
    name: FunctionName


class ResponsesStreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`stream_options` without what is not served."""


class ResponsesBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fields of a request that are served. A null one counts as absent."""

    model: str
    input: str | Annotated[list[dict[str, Any]], Meta(min_length=1)]
    instructions: str | None = None
    max_output_tokens: TokenCount | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    tools: list[dict[str, Any]] = []
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] = "auto"
    parallel_tool_calls: bool = True
    text: dict[str, Any] = {}
    stream: bool = False
    stream_options: ResponsesStreamOptions | None = None
    metadata: Metadata = {}


class Echo(msgspec.Struct, frozen=True, kw_only=True):
    """Fields of a request that its answers repeat."""

    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    text: dict[str, TextFormat]
    tool_choice: str | FunctionChoice
    tools: list[FunctionTool]


class ResponsesRequest(ChatRequest, frozen=True, kw_only=True):
    """A chat, with what answers repeat of what asked for it."""

    echo: Echo


def parse_responses(body: bytes, unknown: UnknownFields | None = None) -> ResponsesRequest:
    """Puts fields that no API has into `unknown`; None: refuses them. Raises ApiError."""
    fields = object_of(body, VERBATIM)
    take_inert(fields, INERT)
    fields = take_unsupported(fields, UNSUPPORTED)
    if isinstance(options := fields.get("stream_options"), dict):
        fields["stream_options"] = take_unsupported(options, UNSUPPORTED_IN_STREAM_OPTIONS, "stream_options")
    request = converted(fields, ResponsesBody, unknown)
    instructions = [] if not request.instructions else [ChatMessage(role="system", content=request.instructions)]
    messages = [*instructions, *chat_messages(request.input, unknown)]
    tools = [_tool(tool, f"tools[{index}]", unknown) for index, tool in enumerate(request.tools)]
    choice = _choice(request.tool_choice, unknown)
    format = _format(request.text, unknown)
    return ResponsesRequest(
        model=request.model,
        messages=messages,
        stream=request.stream,
        max_tokens=request.max_output_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        tools=[_chat_tool(tool) for tool in tools],
        tool_choice=choice if not isinstance(choice, FunctionChoice) else _named(choice),
        parallel_tool_calls=request.parallel_tool_calls,
        response_format=_response_format(format),
        echo=Echo(
            instructions=request.instructions,
            max_output_tokens=request.max_output_tokens,
            metadata=request.metadata,
            parallel_tool_calls=request.parallel_tool_calls,
            text={"format": format},
            tool_choice=choice,
            tools=tools,
        ),
    )


def _tool(tool: dict[str, Any], where: str, unknown: UnknownFields | None) -> FunctionTool:
    _only_functions(tool, where)
    fields = take_unsupported(plain_fields(tool, {"parameters"}), UNSUPPORTED_IN_TOOL, where)
    return converted(fields, FunctionTool, unknown, where)


def _only_functions(value: dict[str, Any], where: str) -> None:
    kind = value.get("type", "function")
    if isinstance(kind, str) and kind != "function":
        message = f"`{where}` is of type `{kind}`, which is not served; only `function` is."
        raise invalid(message, f"{where}.type", FailureCode.UNSUPPORTED_VALUE)


def _chat_tool(tool: FunctionTool) -> Tool:
    function = FunctionSpec(name=tool.name, description=tool.description, parameters=tool.parameters, strict=tool.strict)
    return Tool(type="function", function=function)


def _choice(
    choice: Literal["none", "auto", "required"] | dict[str, Any], unknown: UnknownFields | None
) -> Literal["none", "auto", "required"] | FunctionChoice:
    if not isinstance(choice, dict):
        return choice
    _only_functions(choice, "tool_choice")
    return converted(choice, FunctionChoice, unknown, "tool_choice")


def _named(choice: FunctionChoice) -> ToolChoice:
    return NamedTool(type="function", function=NamedFunction(name=choice.name))


def _format(text: dict[str, Any], unknown: UnknownFields | None) -> TextFormat:
    fields = take_unsupported(plain_fields(text, {"format"}), UNSUPPORTED_IN_TEXT, "text")
    said = converted(fields, Text, unknown, "text").format
    where = "text.format"
    if said is None or said == {}:
        return TextFormat(type="text")
    format = converted(plain_fields(said, {"schema"}) if isinstance(said, dict) else said, TextFormat, unknown, where)
    if format.type == "json_schema":
        for name in ("name", "schema"):
            if getattr(format, name) is None:
                raise missing(f"{where}.{name}")
    return format


def _response_format(format: TextFormat) -> ResponseFormat | None:
    if format.type == "text":
        return None
    schema = None
    if format.name is not None:
        schema = JsonSchemaFormat(name=format.name, schema=format.schema, description=format.description, strict=format.strict)
    return ResponseFormat(type=format.type, json_schema=schema)
