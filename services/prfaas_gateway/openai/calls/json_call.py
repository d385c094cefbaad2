"""Calls written as JSON objects with the members `name` and `arguments` (or `parameters`), read as they grow."""

import json
from collections.abc import Collection

from prfaas_gateway.openai.calls.pieces import CallArguments, CallStarted, Piece

_ARGUMENTS = ("arguments", "parameters")


class NoCallError(Exception):
    """Text that is no call."""


class JsonExtent:
    """Finds the end of a JSON object or array, character by character."""

    def __init__(self) -> None:
        self.depth = 0
        self.in_string = False
        self._escaped = False

    def take(self, character: str) -> bool:
        """Returns whether the value ends with the character."""
        if self.in_string:
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = True
            elif character == '"':
                self.in_string = False
            return False
        if character == '"':
            self.in_string = True
        elif character in "{[":
            self.depth += 1
        elif character in "}]":
            self.depth -= 1
            return self.depth == 0
        return False


class JsonCall:
    """One object. Its arguments are given out as they are written, once the name is known."""

    def __init__(self, functions: Collection[str] | None = None) -> None:
        """`functions`: names of which another one makes it no call; None: any name will do."""
        self._functions = functions
        self._extent = JsonExtent()
        self._name: str | None = None
        self._key: str | None = None
        self._value: list[str] = []
        """Text since the last comma or colon of the object itself."""
        self._streaming = False
        self._has_arguments = False
        self._early: str | None = None
        """Arguments that came before the name."""

    @property
    def started(self) -> bool:
        """True once a piece was given out."""
        return self._name is not None

    def push(self, text: str) -> tuple[list[Piece], str | None]:
        """Returns pieces, and the text after the object once that has ended, else None.

        Raises NoCallError, unless a piece was given out."""
        pieces: list[Piece] = []
        for at, character in enumerate(text):
            depth, in_string = self._extent.depth, self._extent.in_string
            if depth == 0 and character != "{":
                if character.isspace():
                    continue
                raise NoCallError
            ended = self._extent.take(character)
            if depth == 0:
                continue
            if depth == 1 and not in_string and (character in ",:" or ended):
                if character == ":" and self._key is None:
                    self._key = self._decoded("".join(self._value))
                    self._value = []
                    self._streaming = self._key in _ARGUMENTS and self._name is not None
                    continue
                if character != ":":
                    self._member(pieces)
                    if ended:
                        self._end(pieces)
                        return _joined(pieces), text[at + 1 :]
                    continue
            if depth == 1 and not in_string and character.isspace():
                continue
            self._value.append(character)
            # A string may hold the arguments as a text, which is decoded when it is whole.
            if self._streaming and self._value[0] != '"':
                pieces.append(CallArguments(character))
        return _joined(pieces), None

    def _member(self, pieces: list[Piece]) -> None:
        key, text, streamed = self._key, "".join(self._value), self._streaming and self._value[:1] != ['"']
        self._key, self._value, self._streaming = None, [], False
        if key == "name" and self._name is None:
            name = self._decoded(text)
            if self._functions is not None and name not in self._functions:
                raise NoCallError
            self._name = name
            pieces.append(CallStarted(name))
            if self._early is not None:
                pieces.append(CallArguments(self._early))
        elif key in _ARGUMENTS:
            self._has_arguments = True
            if not streamed:
                arguments = self._decoded(text) if text.startswith('"') else text
                if self._name is None:
                    self._early = arguments
                else:
                    pieces.append(CallArguments(arguments))

    def _end(self, pieces: list[Piece]) -> None:
        if self._name is None:
            raise NoCallError
        if not self._has_arguments:
            pieces.append(CallArguments("{}"))

    def _decoded(self, text: str) -> str:
        """Returns the string that a JSON text is. Raises NoCallError for another value, as long as no piece was given out."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, str):
            return value
        if self.started:
            return text  # the client judges what a call holds
        raise NoCallError


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Returns the pieces with neighbouring parts of arguments as one."""
    out: list[Piece] = []
    arguments: list[str] = []
    """Joined at once: a text that grows by a character at a time is copied each time."""
    for piece in [*pieces, None]:
        if isinstance(piece, CallArguments):
            arguments.append(piece.text)
            continue
        if arguments:
            out.append(CallArguments("".join(arguments)))
            arguments = []
        if piece is not None:
            out.append(piece)
    return out
