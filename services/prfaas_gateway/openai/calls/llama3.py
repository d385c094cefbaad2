"""Calls as Llama 3 writes them: the whole answer is `{"name": ..., "parameters": {...}}`, or several with `;` between."""

from collections.abc import Sequence

from prfaas.engine.grammar import forms
from prfaas_gateway.openai.calls.hermes import object_rules
from prfaas_gateway.openai.calls.json_call import JsonCall, NoCallError
from prfaas_gateway.openai.calls.pieces import CallParser, Function, Piece

TAG = "<|python_tag|>"


class Llama3Parser:
    """An object that calls no function of the request's is the answer itself: JSON was asked for in words."""

    def __init__(self, functions: Sequence[str]) -> None:
        self._functions = frozenset(functions)
        self._raw = ""
        """Text that may begin a call."""
        self._call: JsonCall | None = None
        self._is_text = False

    def push(self, text: str) -> list[Piece]:
        pieces: list[Piece] = []
        while text and not self._is_text:
            found, text = self._go_on(text)
            pieces += found
        return [*pieces, text] if text else pieces

    def flush(self) -> list[Piece]:
        raw, self._raw = self._raw, ""
        if self._is_text or (self._call is not None and self._call.started) or not raw.strip("; \n"):
            return []
        return [raw]

    def _go_on(self, text: str) -> tuple[list[Piece], str]:
        """Returns pieces, and what is left of the text."""
        if self._call is None:
            self._raw += text
            begun = self._raw.lstrip("; \n\t").removeprefix(TAG).lstrip()
            if not begun or TAG.startswith(begun):
                return [], ""
            if not begun.startswith("{"):
                return self._give_up(), ""
            self._call, text = JsonCall(self._functions), begun
        elif not self._call.started:
            self._raw += text
        try:
            pieces, rest = self._call.push(text)
        except NoCallError:
            return self._give_up(), ""
        if rest is not None:
            self._call, self._raw = None, ""
        return pieces, rest or ""

    def _give_up(self) -> list[Piece]:
        self._is_text = True
        return [self._raw]


class Llama3:
    name = "llama3_json"
    marks = (TAG,)

    def parser(self, functions: Sequence[str]) -> CallParser:
        return Llama3Parser(functions)

    def grammar(self, functions: Sequence[Function], *, parallel: bool) -> str:
        start = 'start: object ("; " object)*\n' if parallel else "start: object\n"
        return forms.lark(start + object_rules(functions, "parameters"))
