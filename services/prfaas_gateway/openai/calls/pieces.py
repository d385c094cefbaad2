"""Parts of an answer that may call functions, and the parser that finds them."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol


class CallStarted(NamedTuple):
    """Beginning of a call. Its arguments follow."""

    name: str


class CallArguments(NamedTuple):
    """Part of the JSON text of the latest call's arguments."""

    text: str


Piece = str | CallStarted | CallArguments
"""Text beside the calls, or a part of one."""


class CallParser(Protocol):
    """One answer's text as it grows. What is no call after all comes out as text; nothing is an error."""

    def push(self, text: str) -> list[Piece]: ...

    def flush(self) -> list[Piece]:
        """Returns what was held back; no text follows."""
        ...


class Function(NamedTuple):
    """Function that may be called."""

    name: str
    parameters: dict[str, Any]
    """JSON schema of its arguments."""
    strict: bool


class CallFamily(Protocol):
    """Way in which a family of models writes calls."""

    @property
    def name(self) -> str: ...

    @property
    def marks(self) -> tuple[str, ...]:
        """Special tokens that belong to the text of a call."""
        ...

    def parser(self, functions: Sequence[str]) -> CallParser: ...

    def grammar(self, functions: Sequence[Function], *, parallel: bool) -> str:
        """Returns the grammar of an answer that is one call, or several where `parallel` is set. Raises GrammarError."""
        ...


def held_back(text: str, mark: str) -> int:
    """Returns the number of characters at the end of a text with which `mark` may begin."""
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0
