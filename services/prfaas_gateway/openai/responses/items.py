"""Items of an input, as messages of a chat. Pure."""

from typing import Any, Final, Literal

import msgspec
from msgspec.structs import replace

from prfaas.contracts.codes import FailureCode
from prfaas_gateway.openai.errors import invalid
from prfaas_gateway.openai.fields import converted, missing, plain_fields, take_inert
from prfaas_gateway.openai.responses.unsupported import INERT_IN_ITEM, INERT_IN_PART, UNSUPPORTED_IN_ITEM, UNSUPPORTED_IN_PART
from prfaas_gateway.openai.tool_types import CalledFunction, ToolCall
from prfaas_gateway.openai.types import ChatMessage, TextPart
from prfaas_gateway.openai.unknown_fields import UnknownFields
from prfaas_gateway.openai.unsupported import take_unsupported


class MessageItem(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Any
    """A string, or parts that are texts."""


class CallItem(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    """JSON text."""


class OutputItem(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: Literal["function_call_output"]
    call_id: str
    output: Any
    """A string, or parts that are texts."""
    name: str | None = None
    """Name of the function, which its call has too."""


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: Literal["input_text", "output_text"]
    text: str


Item = MessageItem | CallItem | OutputItem
_KINDS: Final[dict[str, type[Item]]] = {
    "message": MessageItem,
    "function_call": CallItem,
    "function_call_output": OutputItem,
}
_TEXTS: Final = ("input_text", "output_text")


def chat_messages(input: str | list[dict[str, Any]], unknown: UnknownFields | None) -> list[ChatMessage]:
    """Returns the messages of a chat that say what an input says: the calls of one turn are one message. Raises ApiError."""
    if isinstance(input, str):
        return [ChatMessage(role="user", content=input)]
    messages: list[ChatMessage] = []
    for index, value in enumerate(input):
        where = f"input[{index}]"
        item = _item(value, where, unknown)
        match item:
            case CallItem():
                _add_call(messages, item)
            case OutputItem():
                content = _content(item.output, f"{where}.output", unknown)
                messages.append(ChatMessage(role="tool", tool_call_id=item.call_id, content=content))
            case MessageItem():
                _add_message(messages, ChatMessage(role=item.role, content=_content(item.content, f"{where}.content", unknown)))
    return messages


def _add_call(messages: list[ChatMessage], item: CallItem) -> None:
    call = ToolCall(id=item.call_id, function=CalledFunction(name=item.name, arguments=item.arguments))
    if messages and messages[-1].role == "assistant":
        messages[-1] = replace(messages[-1], tool_calls=[*messages[-1].tool_calls, call])
    else:
        messages.append(ChatMessage(role="assistant", tool_calls=[call]))


def _add_message(messages: list[ChatMessage], message: ChatMessage) -> None:
    # What an answer says beside its calls belongs to their turn, as in a chat.
    if message.role == "assistant" and messages and messages[-1].role == "assistant" and messages[-1].tool_calls:
        messages[-1] = replace(messages[-1], content=messages[-1].text + message.text)
    else:
        messages.append(message)


def _item(value: dict[str, Any], where: str, unknown: UnknownFields | None) -> Item:
    kind = value.get("type")
    if kind is None and "role" not in value:
        raise missing(f"{where}.type")
    if kind is not None and (not isinstance(kind, str) or kind not in _KINDS):
        message = f"`{where}` is of type `{kind}`, which is not served; {_listed(tuple(_KINDS))}."
        raise invalid(message, f"{where}.type", FailureCode.UNSUPPORTED_VALUE)
    fields = plain_fields(value)
    take_inert(fields, INERT_IN_ITEM, where)
    return converted(take_unsupported(fields, UNSUPPORTED_IN_ITEM, where), _KINDS[kind or "message"], unknown, where)


def _content(content: Any, where: str, unknown: UnknownFields | None) -> str | list[TextPart]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise invalid(f"`{where}` must be a string or an array of parts.", where, FailureCode.INVALID_VALUE)
    parts = [TextPart(type="text", text=_part(part, f"{where}[{index}]", unknown).text) for index, part in enumerate(content)]
    return parts or ""


def _part(value: Any, where: str, unknown: UnknownFields | None) -> Part:
    if not isinstance(value, dict):
        raise invalid(f"`{where}` must be a part: an object with a `type`.", where, FailureCode.INVALID_VALUE)
    kind = value.get("type")
    if kind is None:
        raise missing(f"{where}.type")
    if kind not in _TEXTS:
        message = f"`{where}` is of type `{kind}`, which is not served; {_listed(_TEXTS)}."
        raise invalid(message, f"{where}.type", FailureCode.UNSUPPORTED_VALUE)
    fields = plain_fields(value)
    take_inert(fields, INERT_IN_PART, where)
    return converted(take_unsupported(fields, UNSUPPORTED_IN_PART, where), Part, unknown, where)


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(f'`{name}`' for name in names[:-1])} and `{names[-1]}` are"
