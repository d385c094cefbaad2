"""Texts read by a parser, cut into parts in any way."""

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

from prfaas_gateway.openai.calls.pieces import CallArguments, CallFamily, CallStarted, Function

WEATHER = Function(
    "get_weather",
    {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 8}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city"],
        "additionalProperties": False,
    },
    True,
)
TIME = Function("time.now", {"type": "object", "properties": {}, "additionalProperties": False}, True)
NAMES = (WEATHER.name, TIME.name)


class Read(NamedTuple):
    text: str
    calls: list[tuple[str, Any]]


def read(family: CallFamily, parts: Iterable[str]) -> Read:
    parser = family.parser(NAMES)
    text, calls = "", []
    pieces = [piece for part in parts for piece in parser.push(part)] + parser.flush()
    for piece in pieces:
        match piece:
            case CallStarted(name):
                calls.append([name, ""])
            case CallArguments(arguments):
                calls[-1][1] += arguments
            case _:
                text += piece
    return Read(text, [(name, json.loads(arguments)) for name, arguments in calls])


def cut(text: str, places: Iterable[int]) -> list[str]:
    """The text in parts that end at these places, and anywhere twice."""
    ends = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(ends)]
