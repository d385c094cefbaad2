"""Messages in Anthropic's words, as those of a chat. Pure."""

import json
from collections.abc import Iterator
from typing import Any, Final, Literal

import msgspec

from prfaas.contracts.codes import FailureCode
from prfaas_gateway.anthropic.unsupported import INERT_IN_BLOCK, UNSUPPORTED_IN_CALL, UNSUPPORTED_IN_TEXT
from prfaas_gateway.openai.errors import invalid
from prfaas_gateway.openai.fields import converted, missing, nested_too_deeply, plain_fields, take_inert
from prfaas_gateway.openai.tool_types import CalledFunction, ToolCall
from prfaas_gateway.openai.types import ChatMessage, TextPart
from prfaas_gateway.openai.unknown_fields import UnknownFields
from prfaas_gateway.openai.unsupported import take_unsupported

ERROR_MARK: Final = "Error: "
"""Stands before a tool's result that is an error: chat templates know no other way to say so."""


class TextBlock(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: Literal["text"]
    text: str


class ToolUseBlock(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class ToolResultBlock(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: Literal["tool_result"]
    tool_use_id: str
    content: Any = ""
    """A string, or text blocks."""
    is_error: bool = False


Block = TextBlock | ToolUseBlock | ToolResultBlock
_KINDS: Final[dict[str, type[Block]]] = {"text": TextBlock, "tool_use": ToolUseBlock, "tool_result": ToolResultBlock}
_UNSUPPORTED: Final[dict[str, dict[str, Any]]] = {"text": UNSUPPORTED_IN_TEXT, "tool_use": UNSUPPORTED_IN_CALL}
_OF_ROLE: Final = {"user": ("text", "tool_result"), "assistant": ("text", "tool_use")}
_TEXT: Final = ("text",)


class _Turn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    role: Literal["user", "assistant"]
    content: Any


def chat_messages(message: dict[str, Any], where: str, unknown: UnknownFields | None) -> list[ChatMessage]:
    """Returns the messages of a chat that say what one message does: each result of a tool is one of its own.

    Raises ApiError."""
    turn = converted(plain_fields(message, {"content"}), _Turn, unknown, where)
    path = f"{where}.content"
    if isinstance(turn.content, str):
        return [ChatMessage(role=turn.role, content=turn.content)]
    blocks = _blocks(turn.content, path, _OF_ROLE[turn.role], unknown)
    if turn.role == "assistant":
        return [_assistant(blocks)]
    if not blocks:
        raise invalid(f"`{path}` is empty; a message of role `user` has a block at the least.", path, FailureCode.INVALID_VALUE)
    return list(_user(blocks, path, unknown))


def system_message(system: str | list[dict[str, Any]], unknown: UnknownFields | None) -> list[ChatMessage]:
    """Returns the first message of a chat, or none where the instructions are empty. Raises ApiError."""
    if isinstance(system, str):
        return [ChatMessage(role="system", content=system)] if system else []
    blocks = _blocks(system, "system", _TEXT, unknown)
    return [ChatMessage(role="system", content=_parts(blocks))] if blocks else []


def _user(blocks: list[Block], where: str, unknown: UnknownFields | None) -> Iterator[ChatMessage]:
    texts: list[Block] = []
    for index, block in enumerate(blocks):
        if isinstance(block, ToolResultBlock):
            if texts:
                yield ChatMessage(role="user", content=_parts(texts))
                texts = []
            yield _result(block, f"{where}[{index}].content", unknown)
        else:
            texts.append(block)
    if texts:
        yield ChatMessage(role="user", content=_parts(texts))


def _result(block: ToolResultBlock, where: str, unknown: UnknownFields | None) -> ChatMessage:
    parts = [TextPart(type="text", text=block.content)] if isinstance(block.content, str) else []
    if not isinstance(block.content, str):
        parts = _parts(_blocks(block.content, where, _TEXT, unknown))
    if block.is_error:
        parts = [TextPart(type="text", text=ERROR_MARK), *parts]
    return ChatMessage(role="tool", tool_call_id=block.tool_use_id, content="".join(part.text for part in parts))


def _assistant(blocks: list[Block]) -> ChatMessage:
    calls = [_call(block) for block in blocks if isinstance(block, ToolUseBlock)]
    parts = _parts(blocks)
    return ChatMessage(role="assistant", content=parts or (None if calls else ""), tool_calls=calls)


def _call(block: ToolUseBlock) -> ToolCall:
    try:
        arguments = json.dumps(block.input, ensure_ascii=False)
    except RecursionError as error:
        raise nested_too_deeply() from error
    return ToolCall(id=block.id, function=CalledFunction(name=block.name, arguments=arguments))


def _parts(blocks: list[Block]) -> list[TextPart]:
    return [TextPart(type="text", text=block.text) for block in blocks if isinstance(block, TextBlock)]


def _blocks(values: Any, where: str, served: tuple[str, ...], unknown: UnknownFields | None) -> list[Block]:
    """Raises ApiError. A block of another kind is refused by its name."""
    if not isinstance(values, list):
        raise invalid(f"`{where}` must be a string or an array of blocks.", where, FailureCode.INVALID_VALUE)
    return [_block(value, f"{where}[{index}]", served, unknown) for index, value in enumerate(values)]


def _block(value: Any, where: str, served: tuple[str, ...], unknown: UnknownFields | None) -> Block:
    if not isinstance(value, dict):
        raise invalid(f"`{where}` must be a block: an object with a `type`.", where, FailureCode.INVALID_VALUE)
    kind = value.get("type")
    if kind is None:
        raise missing(f"{where}.type")
    if not isinstance(kind, str) or kind not in served:
        told = " and ".join(f"`{each}`" for each in served)
        message = f"`{where}` is of type `{kind}`, which is not served there; {told} {'are' if len(served) > 1 else 'is'}."
        raise invalid(message, f"{where}.type", FailureCode.UNSUPPORTED_VALUE)
    # A null among the arguments of a call says something.
    fields = plain_fields(value, {"input", "content"})
    take_inert(fields, INERT_IN_BLOCK, where)
    return converted(take_unsupported(fields, _UNSUPPORTED.get(kind, {}), where), _KINDS[kind], unknown, where)
