"""Tools and the choice among them: which answer is asked for, and what is refused."""

import json
from typing import Any

import pytest

from prfaas_gateway.openai.calls.families import FAMILIES
from prfaas_gateway.openai.calls.pieces import Function
from prfaas_gateway.openai.errors import ApiError
from prfaas_gateway.openai.tool_use import ToolUse, tool_use_of
from prfaas_gateway.openai.types import ChatRequest
from prfaas_gateway.openai.validation import parse_chat, parse_completion
from tests.gateway.bodies import HELLO

HERMES = FAMILIES["hermes"]
SCHEMA = {"type": "object", "properties": {"x": {"enum": [None, 1]}}}
TOOLS = [
    {"type": "function", "function": {"name": "f", "description": None, "parameters": SCHEMA, "strict": True}},
    {"type": "function", "function": {"name": "g"}},
]
F = Function("f", SCHEMA, True)
G = Function("g", {"type": "object", "properties": {}, "additionalProperties": False}, False)


def chat(**fields: Any) -> ChatRequest:
    return parse_chat(json.dumps({"model": "m", "messages": HELLO, **fields}).encode())


def use(**fields: Any) -> ToolUse | None:
    return tool_use_of(chat(**{"tools": TOOLS, **fields}), HERMES)


@pytest.mark.parametrize("fields", [{}, {"tool_choice": "auto"}, {"tool_choice": None}])
def test_a_model_chooses_by_itself_unless_told(fields: dict[str, Any]) -> None:
    found = use(**fields)
    assert found is not None
    assert (found.functions, found.parallel, found.form) == (("f", "g"), True, None)


@pytest.mark.parametrize(
    "fields", [{"tool_choice": "none"}, {"tools": []}, {"tools": [], "tool_choice": "auto"}, {"tools": None}]
)
def test_nothing_is_called(fields: dict[str, Any]) -> None:
    assert use(**fields) is None


@pytest.mark.parametrize(
    ("fields", "functions", "parallel"),
    [
        ({"tool_choice": "required"}, [F, G], True),
        ({"tool_choice": "required", "parallel_tool_calls": False}, [F, G], False),
        ({"tool_choice": {"type": "function", "function": {"name": "g"}}}, [G], False),
    ],
)
def test_a_call_that_must_come_is_a_form(fields: dict[str, Any], functions: list[Function], parallel: bool) -> None:
    found = use(**fields)
    assert found is not None and found.form is not None
    assert found.form.make() == HERMES.grammar(functions, parallel=parallel)


@pytest.mark.parametrize(("fields", "param"), [
    ({"tools": [], "tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "h"}}}, "tool_choice.function.name"),
    ({"tool_choice": "any"}, "tool_choice"),
    ({"tools": [TOOLS[0], TOOLS[0]]}, "tools"),
    ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
    ({"guided_regex": "a"}, "guided_regex"),
    ({"tool_choice": "required", "ignore_eos": True}, "ignore_eos"),
])  # fmt: skip
def test_what_is_refused_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as raised:
        use(**fields)
    assert (raised.value.status, raised.value.body.param) == (400, param)


def test_a_model_that_takes_no_tools_refuses_them() -> None:
    with pytest.raises(ApiError, match="its chat template takes none") as raised:
        tool_use_of(chat(tools=TOOLS), None)
    assert raised.value.body.param == "tools"


def test_a_plain_completion_has_no_tools() -> None:
    with pytest.raises(ApiError) as raised:
        parse_completion(json.dumps({"model": "m", "prompt": "x", "tools": TOOLS}).encode())
    assert raised.value.body.param == "tools"
