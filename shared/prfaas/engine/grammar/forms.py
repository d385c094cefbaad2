"""Grammars from what clients send: a JSON schema, a regular expression, a choice, a grammar in Lark's or GBNF's notation."""

import json
from collections.abc import Sequence
from typing import Any, Final

from llguidance import LLMatcher, LLParserLimits, gbnf_to_lark

MAX_GRAMMAR_BYTES: Final = 32 * 1024
"""Largest grammar, as it is sent to a decode worker."""
_BLANKS: Final = r"[\x20\x0A\x0D\x09]{1,40}"
"""Blanks between the parts of a JSON text. Without a bound a model may write nothing else until its answer is cut off."""


class GrammarError(Exception):
    """Refusal of a grammar. The message says what is wrong with it, as a clause that follows a subject."""


def parser_limits() -> LLParserLimits:
    """Returns bounds on the work of one grammar: a mask costs some milliseconds at most, a matcher some tens of MB."""
    return LLParserLimits(
        initial_lexer_fuel=200_000,
        step_lexer_fuel=100_000,
        step_max_items=20_000,
        max_lexer_states=20_000,
        max_grammar_size=50_000,
        verbose_errors=False,
    )


def json_object() -> str:
    return json_schema({"type": "object"})


def json_schema(schema: dict[str, Any] | bool, *, lenient: bool = False) -> str:
    """`lenient`: leaves out keywords that the grammar cannot hold, instead of their refusal by `check`."""
    return json.dumps({"grammars": [{"json_schema": _with_options(schema, lenient)}]})


def regex(pattern: str) -> str:
    return str(LLMatcher.grammar_from_regex(pattern))


def choice(texts: Sequence[str]) -> str:
    return lark("start: " + " | ".join(quoted(text) for text in texts))


def lark(source: str) -> str:
    return str(LLMatcher.grammar_from_lark(source))


def notated(source: str) -> str:
    """Returns the grammar of a source in Lark's notation or in GBNF. Raises GrammarError."""
    if len(source.encode()) > MAX_GRAMMAR_BYTES:
        raise GrammarError(f"has more than {MAX_GRAMMAR_BYTES} bytes")
    try:
        return lark(gbnf_to_lark.any_to_lark(source))
    except Exception as error:  # the converter raises nothing more particular
        raise GrammarError(f"is neither Lark nor GBNF: {_first_line(error)}") from error


def quoted(text: str) -> str:
    """Returns a text as a terminal of a Lark grammar."""
    return json.dumps(text)


def embedded(schema: dict[str, Any] | bool, *, lenient: bool = False) -> str:
    """Returns a JSON schema as a part of a Lark grammar."""
    return f"%json {json.dumps(_with_options(schema, lenient))}"


def check(grammar: str) -> None:
    """Compiles a grammar without a tokenizer, in the calling thread. Raises GrammarError.

    It holds the interpreter's lock for a moment only. What takes long is bounded by the grammar's size and `parser_limits`."""
    size_bytes = len(grammar.encode())
    if size_bytes > MAX_GRAMMAR_BYTES:
        raise GrammarError(f"is too large: as a grammar it has {size_bytes} bytes, and {MAX_GRAMMAR_BYTES} are allowed")
    is_error, messages = LLMatcher.validate_grammar_with_warnings(grammar, limits=parser_limits())
    if is_error:
        raise GrammarError(f"cannot be used: {_first_line(messages[0])}")


def _with_options(schema: dict[str, Any] | bool, lenient: bool) -> dict[str, Any]:
    # `true` and `false` are schemas too: anything, and nothing.
    members = schema if isinstance(schema, dict) else {} if schema else {"enum": []}
    return {**members, "x-guidance": {"whitespace_pattern": _BLANKS, "lenient": lenient}}


def _first_line(error: object) -> str:
    return str(error).strip().partition("\n")[0][:300]
