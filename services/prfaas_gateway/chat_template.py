"""Chat template of one model: messages and tools in, text out.

The renderer is transformers' in all that a template can see, and a test compares the two. transformers itself is no dependency of
the gateway: it comes with the engine of real models, and takes seconds to import.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from prfaas.contracts.codes import FailureCode
from prfaas_gateway.openai.errors import invalid
from prfaas_gateway.openai.tool_use import template_tools
from prfaas_gateway.openai.types import ChatMessage, ChatRequest, TokenizeChatRequest

RESERVED: Final = frozenset(["messages", "tools", "documents", "add_generation_prompt", "continue_final_message"])
"""Names that `chat_template_kwargs` cannot have."""


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """Wishes of a request about its rendering."""

    tools: list[dict[str, Any]] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    variables: Mapping[str, Any]

    @classmethod
    def of(cls, request: ChatRequest | TokenizeChatRequest) -> "Rendering":
        """Raises ApiError for wishes that contradict one another."""
        if request.continue_final_message and request.add_generation_prompt:
            message = "`continue_final_message` needs `add_generation_prompt` to be false: the last message goes on."
            raise invalid(message, "continue_final_message", FailureCode.INVALID_VALUE)
        if request.continue_final_message and not request.messages[-1].text.strip():
            message = "`continue_final_message` is true, and the last message has no text to go on with."
            raise invalid(message, "continue_final_message", FailureCode.INVALID_VALUE)
        if taken := sorted(RESERVED & request.chat_template_kwargs.keys()):
            message = f"`chat_template_kwargs` cannot set `{taken[0]}`, which is a field of the request or not served."
            raise invalid(message, "chat_template_kwargs", FailureCode.INVALID_VALUE)
        return cls(
            tools=template_tools(request.tools),
            add_generation_prompt=request.add_generation_prompt,
            continue_final_message=request.continue_final_message,
            variables=request.chat_template_kwargs,
        )


PLAIN: Final = Rendering(variables={})
_END: Final = "\ue000end of the last message\ue001 "
"""Mark behind a message that an answer goes on with, in characters of no language."""


class ChatTemplate:
    """Jinja source as models ship it, run in a sandbox: it comes with the weights, not from us."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """The template may use the `special_tokens` by their names. Raises jinja2.TemplateSyntaxError."""
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation])
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        environment.globals.update(special_tokens)
        self._template = environment.from_string(source)

    def render(self, messages: list[ChatMessage], rendering: Rendering = PLAIN) -> str:
        """Raises ApiError when the template refuses the messages."""
        told = [_message(message) for message in messages]
        if rendering.continue_final_message:
            told[-1]["content"] += _END
        try:
            text = self._template.render(
                **rendering.variables,
                messages=told,
                tools=rendering.tools,
                documents=None,
                add_generation_prompt=rendering.add_generation_prompt,
            )
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError) as error:
            message = f"The model's chat template does not take these messages: {error}."
            raise invalid(message, "messages", FailureCode.INVALID_VALUE) from error
        return _cut(text) if rendering.continue_final_message else text


def _cut(text: str) -> str:
    """Returns the rendered chat up to the end of its last message. Raises ApiError for a template that leaves that out."""
    at = text.rfind(_END.strip())
    if at < 0:
        message = "`continue_final_message` is true, and the model's chat template leaves the end of the last message out."
        raise invalid(message, "continue_final_message", FailureCode.INVALID_VALUE)
    # A template that keeps the blank after the mark keeps those before it too.
    return text[:at] if text.startswith(_END, at) else text[:at].rstrip()


class Generation(Extension):
    """The block `{% generation %}`, with which templates mark what the model has written. Only training asks for it."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 has it so

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_as_it_is"), [], [], body).set_lineno(line)

    def _as_it_is(self, caller: Callable[[], str]) -> str:
        return caller()


def _message(message: ChatMessage) -> dict[str, Any]:
    # Templates know `system`; `developer` is its newer name.
    fields: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role, "content": message.text}
    if message.name is not None:
        fields["name"] = message.name
    if message.tool_call_id is not None:
        fields["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        fields["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.function.name, "arguments": _arguments(call.function.arguments)},
            }
            for call in message.tool_calls
        ]
    return fields


def _arguments(text: str) -> Any:
    """Returns the arguments as templates take them: an object, which they write in their own way. What is none stays a text."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return text
    return found if isinstance(found, dict) else text


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Encodes without the escapes for HTML of Jinja's own filter: models have not seen those in training."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
