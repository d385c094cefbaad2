"""Calls as Mistral writes them: `[TOOL_CALLS]` before a list of objects, or before each name and its `[ARGS]`."""

from collections.abc import Sequence

from prfaas.engine.grammar import forms
from prfaas_gateway.openai.calls.hermes import object_rules
from prfaas_gateway.openai.calls.json_call import JsonCall, JsonExtent, NoCallError
from prfaas_gateway.openai.calls.parsing import MarkedText
from prfaas_gateway.openai.calls.pieces import CallArguments, CallParser, CallStarted, Function, Piece

MARK, ARGUMENTS = "[TOOL_CALLS]", "[ARGS]"


class MistralParser:
    def __init__(self) -> None:
        self._text = MarkedText(MARK)
        self._head: str | None = None
        """Text after a mark until it says which of the two forms follows."""
        self._call: JsonCall | None = None
        self._in_list = False
        self._arguments: JsonExtent | None = None

    def push(self, text: str) -> list[Piece]:
        pieces: list[Piece] = []
        rest: str | None = text
        while rest is not None:
            if self._call is not None:
                found, rest = self._in_object(self._call, rest)
            elif self._arguments is not None:
                found, rest = self._in_arguments(self._arguments, rest)
            elif self._in_list:
                found, rest = self._between(rest)
            elif self._head is not None:
                found, rest = self._behind_mark(self._head + rest)
            else:
                found, rest = self._text.push(rest)
                if rest is not None:
                    self._head = ""
            pieces += found
        return pieces

    def flush(self) -> list[Piece]:
        if self._head is not None:
            head, self._head = self._head, None
            return self._text.give_up(MARK + head)
        if self._call is not None or self._in_list or self._arguments is not None:
            return []
        return self._text.flush()

    def _behind_mark(self, head: str) -> tuple[list[Piece], str | None]:
        begun = head.lstrip()
        if begun.startswith("["):
            self._head, self._in_list = None, True
            return [], begun[1:]
        name, brace, arguments = begun.partition("{")
        if not brace:
            self._head = head
            return [], None
        self._head, self._arguments = None, JsonExtent()
        return [CallStarted(name.strip().removesuffix(ARGUMENTS).strip())], brace + arguments

    def _between(self, text: str) -> tuple[list[Piece], str | None]:
        begun = text.lstrip(", \n\t")
        if not begun:
            return [], None
        if begun.startswith("]"):
            self._in_list = False
            return [], begun[1:]
        self._call = JsonCall()
        return [], begun

    def _in_object(self, call: JsonCall, text: str) -> tuple[list[Piece], str | None]:
        try:
            pieces, rest = call.push(text)
        except NoCallError:
            self._call, self._in_list = None, False
            return self._text.give_up(text), None
        if rest is not None:
            self._call = None
        return pieces, rest

    def _in_arguments(self, extent: JsonExtent, text: str) -> tuple[list[Piece], str | None]:
        for at, character in enumerate(text):
            if extent.take(character):
                self._arguments = None
                return [CallArguments(text[: at + 1])], text[at + 1 :]
        return ([CallArguments(text)] if text else []), None


class Mistral:
    name = "mistral"
    marks = (MARK, ARGUMENTS)

    def parser(self, functions: Sequence[str]) -> CallParser:
        return MistralParser()

    def grammar(self, functions: Sequence[Function], *, parallel: bool) -> str:
        more = ' (", " object)*' if parallel else ""
        return forms.lark(f'start: "{MARK}[" object{more} "]"\n' + object_rules(functions, "arguments"))
