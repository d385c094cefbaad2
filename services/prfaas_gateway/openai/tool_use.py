"""Tools of a request: which may be called, and which answer the choice among them asks for."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from prfaas.contracts.codes import FailureCode
from prfaas_gateway.openai.answer_form import Form, check_ends, form_of
from prfaas_gateway.openai.calls.pieces import CallFamily, Function
from prfaas_gateway.openai.errors import invalid
from prfaas_gateway.openai.tool_types import NamedTool, Tool
from prfaas_gateway.openai.types import ChatRequest, GenerationRequest


@dataclass(frozen=True, kw_only=True)
class ToolUse:
    """Calls that an answer may have."""

    family: CallFamily
    functions: tuple[str, ...]
    parallel: bool
    """False: of several calls only the first one counts."""
    form: Form | None
    """Form of an answer that must be calls; None: the model chooses."""


def tool_use_of(request: GenerationRequest, family: CallFamily | None) -> ToolUse | None:
    """Returns None where an answer calls nothing. `family` is the model's; None: it takes no tools.

    Raises ApiError."""
    if not isinstance(request, ChatRequest):
        return None
    choice = request.tool_choice
    if not request.tools:
        if choice not in (None, "none", "auto"):
            raise invalid("`tool_choice` asks for a call, and `tools` has none.", "tool_choice", FailureCode.INVALID_VALUE)
        return None
    if family is None:
        message = "`tools` are not supported with this model: its chat template takes none, or in a way not known here."
        raise invalid(message, "tools", FailureCode.UNSUPPORTED_VALUE)
    names = tuple(tool.function.name for tool in request.tools)
    if twice := {name for name in names if names.count(name) > 1} if len(names) < 1000 else set():
        raise invalid(f"`tools` has two functions of the name {min(twice)!r}.", "tools", FailureCode.INVALID_VALUE)
    if choice == "none":
        return None
    if (form := form_of(request)) is not None:
        message = (
            f'`{form.param}` is not supported beside `tools` that may be called: send `tool_choice: "none"`, or leave it out.'
        )
        raise invalid(message, form.param, FailureCode.UNSUPPORTED_VALUE)
    if request.n > 1:
        message = "`n` above 1 is not supported beside `tools` that may be called: send the request again for another answer."
        raise invalid(message, "n", FailureCode.UNSUPPORTED_VALUE)
    return ToolUse(family=family, functions=names, parallel=request.parallel_tool_calls, form=_form(request, family))


def _form(request: ChatRequest, family: CallFamily) -> Form | None:
    choice, tools = request.tool_choice, request.tools
    if isinstance(choice, NamedTool):
        tools = [tool for tool in tools if tool.function.name == choice.function.name]
        if not tools:
            message = f"`tool_choice` names the function {choice.function.name!r}, which `tools` does not have."
            raise invalid(message, "tool_choice.function.name", FailureCode.INVALID_VALUE)
    elif choice != "required":
        return None
    check_ends(request, "tool_choice")
    functions = [_function(tool) for tool in tools]
    # A choice of one function is a call of it, as OpenAI has it.
    parallel = request.parallel_tool_calls and not isinstance(choice, NamedTool)
    return Form("tools", partial(family.grammar, functions, parallel=parallel))


def _function(tool: Tool) -> Function:
    function = tool.function
    schema: dict[str, Any] = function.parameters or {"type": "object", "properties": {}, "additionalProperties": False}
    return Function(function.name, schema, bool(function.strict))


def template_tools(tools: Sequence[Tool]) -> list[dict[str, Any]] | None:
    """Returns the tools as a chat template takes them, None without any."""
    return [msgspec.to_builtins(tool) for tool in tools] or None
