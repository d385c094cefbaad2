"""Families of models by the way in which they write calls."""

from typing import Final

from prfaas_gateway.openai.calls.hermes import Hermes
from prfaas_gateway.openai.calls.llama3 import Llama3
from prfaas_gateway.openai.calls.mistral import Mistral
from prfaas_gateway.openai.calls.pieces import CallFamily
from prfaas_gateway.openai.calls.pythonic import Pythonic

FAMILIES: Final[dict[str, CallFamily]] = {family.name: family for family in (Hermes(), Llama3(), Mistral(), Pythonic())}
_OTHER_MARKS: Final = ("<function=", "<｜tool", "<|tool_calls_section_begin|>", "<start_function_call>", "<arg_key>")
"""Marks of ways that no parser here knows, some of them inside of `<tool_call>`."""
_MARKS: Final = (
    ("hermes", "<tool_call>"),
    ("mistral", "[TOOL_CALLS]"),
    ("pythonic", "<|python_start|>"),
    ("pythonic", "func_name1("),
    ("llama3_json", "<|python_tag|>"),
    ("llama3_json", '{"name": function name, "parameters":'),
)


def family_of(chat_template: str | None) -> CallFamily | None:
    """Returns the family that a model's chat template tells of; None where it takes no tools, or in another way."""
    if chat_template is None or "tools" not in chat_template or any(mark in chat_template for mark in _OTHER_MARKS):
        return None
    return next((FAMILIES[name] for name, mark in _MARKS if mark in chat_template), None)
