"""Calls as Llama 3.2 and 4 and others may write them: the whole answer is a list of Python calls, `[f(a=1), g(b="x")]`."""

import ast
import json
import sys
import warnings
from collections.abc import Sequence
from typing import Any, Final

from prfaas.engine.grammar import forms
from prfaas.engine.grammar.forms import GrammarError
from prfaas_gateway.openai.calls.pieces import CallArguments, CallParser, CallStarted, Function, Piece

_JSON_NAMES: Final = {"true": True, "false": False, "null": None}
"""JSON's words, which models write into Python's calls."""


class PythonicParser:
    """Gives a call out when the list is whole: Python's text is no JSON before it is read."""

    def __init__(self, functions: Sequence[str]) -> None:
        self._functions = frozenset(functions)
        self._raw = ""
        self._is_text = False

    def push(self, text: str) -> list[Piece]:
        if self._is_text:
            return [text] if text else []
        self._raw += text
        begun = self._raw.lstrip()
        if not begun or begun.startswith("["):
            return []
        self._is_text = True
        return [self._raw]

    def flush(self) -> list[Piece]:
        raw, self._raw = self._raw, ""
        if self._is_text or not raw:
            return []
        try:
            return self._calls(raw.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return [raw]

    def _calls(self, text: str) -> list[Piece]:
        """Raises ValueError, and what Python's parser raises."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that only JSON has
            parsed = ast.parse(text, mode="eval").body
        if not isinstance(parsed, ast.List) or not parsed.elts:
            raise ValueError("no list of calls")
        pieces: list[Piece] = []
        for call in parsed.elts:
            if not isinstance(call, ast.Call) or call.args:
                raise ValueError("no call by keywords")
            name = ast.unparse(call.func)
            if name not in self._functions:
                raise ValueError("no function of the request's")
            arguments = {str(keyword.arg): _value(keyword.value) for keyword in call.keywords if keyword.arg}
            pieces += [CallStarted(name), CallArguments(json.dumps(arguments, ensure_ascii=False, allow_nan=False))]
        return pieces


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Name) and node.id in _JSON_NAMES:
        return _JSON_NAMES[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        members = zip(node.keys, node.values, strict=True)
        return {str(ast.literal_eval(key)): _value(value) for key, value in members if key is not None}
    value = ast.literal_eval(node)
    if value is not None and not isinstance(value, str | int | float):
        raise ValueError("a value that JSON does not have")
    if isinstance(value, str):
        # JSON's escapes for characters beyond 16 bits are two in Python.
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, float):
        return min(max(value, -sys.float_info.max), sys.float_info.max)  # JSON has no infinity
    return value


class Pythonic:
    name = "pythonic"
    marks = ()

    def parser(self, functions: Sequence[str]) -> CallParser:
        return PythonicParser(functions)

    def grammar(self, functions: Sequence[Function], *, parallel: bool) -> str:
        more = ' (", " call)*' if parallel else ""
        lines = [f'start: "[" call{more} "]"', "call: " + " | ".join(f"call_{number}" for number in range(len(functions)))]
        for number, function in enumerate(functions):
            lines += self._rules(number, function)
        return forms.lark("\n".join(lines) + "\n")

    @staticmethod
    def _rules(number: int, function: Function) -> list[str]:
        schema = function.parameters
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, dict) or not isinstance(required, list):
            raise GrammarError(f"cannot be used: `properties` of the function {function.name!r} is no object")
        if wrong := [name for name in (*properties, *required) if not str(name).isidentifier() or name not in properties]:
            raise GrammarError(f"cannot be used: {wrong[0]!r} of the function {function.name!r} cannot be an argument in Python")
        shared = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
        lines, parts = [], ""
        # Required ones first; of the others each only after those before it.
        ordered = [*required, *(name for name in properties if name not in required)]
        for place, name in reversed(list(enumerate(ordered))):
            rule = f"argument_{number}_{place}"
            of_it = properties[name] if isinstance(properties[name], dict) else {}
            lines.append(f"{rule}: {forms.embedded(of_it | shared, lenient=not function.strict)}")
            part = f"{forms.quoted((', ' if place else '') + name + '=')} {rule} {parts}".strip()
            parts = part if name in required else f"({part})?"
        return [f'call_{number}: {forms.quoted(function.name + "(")} {parts} ")"', *lines]
