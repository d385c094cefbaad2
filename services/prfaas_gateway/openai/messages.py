"""Messages of a chat, checked one by one."""

from typing import Any

from prfaas.contracts.codes import FailureCode
from prfaas_gateway.openai.errors import invalid
from prfaas_gateway.openai.fields import converted, missing, plain_fields
from prfaas_gateway.openai.types import ChatMessage
from prfaas_gateway.openai.unknown_fields import UnknownFields
from prfaas_gateway.openai.unsupported import UNSUPPORTED_IN_MESSAGE, UNSUPPORTED_IN_PART, take_unsupported


def messages_of(fields: dict[str, Any], unknown: UnknownFields | None) -> dict[str, Any]:
    """Returns the fields of a request with `messages` as they are checked. Raises ApiError."""
    if not isinstance(messages := fields.get("messages"), list):
        return fields
    # One by one: of a million wrong ones only the first is looked at.
    return fields | {"messages": [message_of(each, f"messages[{index}]", unknown) for index, each in enumerate(messages)]}


def message_of(message: Any, where: str, unknown: UnknownFields | None) -> ChatMessage:
    """Returns a message that a request has at the path `where`. Raises ApiError: what OpenAI knows and this server does not is
    refused by name."""
    served = _served_fields(plain_fields(message), where) if isinstance(message, dict) else message
    taken = converted(served, ChatMessage, unknown, where)
    _check_calls(taken, where)
    return taken


def _check_calls(message: ChatMessage, where: str) -> None:
    """Raises ApiError for a message that lacks what its role needs, or has what another role has."""
    absent, strange = None, None
    if message.content is None and not message.tool_calls:
        absent = "content"
    elif message.role == "tool" and message.tool_call_id is None:
        absent = "tool_call_id"
    elif message.role != "tool" and message.tool_call_id:
        strange, its = "tool_call_id", "tool"
    elif message.role != "assistant" and message.tool_calls:
        strange, its = "tool_calls", "assistant"
    if absent is not None:
        raise missing(f"{where}.{absent}")
    if strange is not None:
        path = f"{where}.{strange}"
        raise invalid(f"`{path}` is a field of messages of role `{its}`.", path, FailureCode.INVALID_VALUE)


def _served_fields(message: dict[str, Any], where: str) -> dict[str, Any]:
    if message.get("role") == "function":
        told = "Messages of role `function` are not supported by this server; `tool` has taken its place."
        raise invalid(told, f"{where}.role", FailureCode.UNSUPPORTED_VALUE)
    fields = take_unsupported(message, UNSUPPORTED_IN_MESSAGE, where)
    if isinstance(parts := fields.get("content"), list):
        fields["content"] = [_part(part, f"{where}.content[{index}]") for index, part in enumerate(parts)]
    return fields


def _part(part: Any, where: str) -> Any:
    if not isinstance(part, dict):
        return part
    kind = part.get("type", "text")
    if isinstance(kind, str) and kind != "text":
        message = f"Content of type `{kind}` is not supported by this server; only `text` is."
        raise invalid(message, f"{where}.type", FailureCode.UNSUPPORTED_VALUE)
    return take_unsupported(part, UNSUPPORTED_IN_PART, where)
