"""Calls as Hermes and Qwen write them: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, one after another."""

from collections.abc import Sequence

from prfaas.engine.grammar import forms
from prfaas_gateway.openai.calls.json_call import JsonCall, NoCallError
from prfaas_gateway.openai.calls.parsing import MarkedText
from prfaas_gateway.openai.calls.pieces import CallParser, Function, Piece, held_back

BEGIN, END = "<tool_call>", "</tool_call>"


class HermesParser:
    def __init__(self) -> None:
        self._text = MarkedText(BEGIN)
        self._call: JsonCall | None = None
        self._raw = ""
        """Text of the call so far, until it is known to be one."""
        self._after: str | None = None
        """Text after a call's object, in which its end mark is to come."""

    def push(self, text: str) -> list[Piece]:
        pieces: list[Piece] = []
        rest: str | None = text
        while rest is not None:
            if self._call is not None:
                found, rest = self._in_call(self._call, rest)
            elif self._after is not None:
                found, rest = self._behind_call(rest)
            else:
                found, rest = self._text.push(rest)
                if rest is not None:
                    self._call, self._raw = JsonCall(), BEGIN
            pieces += found
        return pieces

    def flush(self) -> list[Piece]:
        if self._call is not None:
            raw, started = self._raw, self._call.started
            self._call = None
            return [] if started else self._text.give_up(raw)
        return [] if self._after is not None else self._text.flush()

    def _in_call(self, call: JsonCall, text: str) -> tuple[list[Piece], str | None]:
        self._raw += "" if call.started else text
        try:
            pieces, rest = call.push(text)
        except NoCallError:
            self._call = None
            return self._text.give_up(BEGIN), self._raw.removeprefix(BEGIN)
        if rest is not None:
            self._call, self._after = None, ""
        return pieces, rest

    def _behind_call(self, text: str) -> tuple[list[Piece], str | None]:
        assert self._after is not None
        _, found, behind = (self._after + text).partition(END)
        if found:
            self._after = None
            return [], behind
        whole = self._after + text
        self._after = whole[len(whole) - held_back(whole, END) :]
        return [], None


class Hermes:
    name = "hermes"
    marks = (BEGIN, END)

    def parser(self, functions: Sequence[str]) -> CallParser:
        # A marked call is meant as one, whatever it calls: the client says what it does not have.
        return HermesParser()

    def grammar(self, functions: Sequence[Function], *, parallel: bool) -> str:
        calls = r'call ("\n" call)*' if parallel else "call"
        return forms.lark(f'start: {calls}\ncall: "{BEGIN}\\n" object "\\n{END}"\n' + object_rules(functions, "arguments"))


def object_rules(functions: Sequence[Function], arguments: str) -> str:
    """Returns rules of Lark for `object`, the object of one call. `arguments` is the name of that member."""
    lines = ["object: " + " | ".join(f"object_{number}" for number in range(len(functions)))]
    for number, function in enumerate(functions):
        head = forms.quoted(f'{{"name": {forms.quoted(function.name)}, "{arguments}": ')
        lines.append(f'object_{number}: {head} arguments_{number} "}}"')
        lines.append(f"arguments_{number}: {forms.embedded(function.parameters, lenient=not function.strict)}")
    return "\n".join(lines) + "\n"
