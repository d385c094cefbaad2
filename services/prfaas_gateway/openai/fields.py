"""The JSON object of a body, its fields made into types, and errors that name the field."""

import re
from typing import Any, Final, TypeVar

import msgspec

from prfaas.contracts.codes import FailureCode
from prfaas_gateway.openai.errors import ApiError, invalid
from prfaas_gateway.openai.plain import plain
from prfaas_gateway.openai.unknown_fields import UnknownFields

Fields = TypeVar("Fields", bound=msgspec.Struct)

INERT: Final[dict[str, Any]] = {
    # These change nothing about an answer, at OpenAI neither: accepted once their type is right.
    "user": str,
    "metadata": dict[str, str],
    "store": bool,
    "safety_identifier": str,
    "prompt_cache_key": str,
    "prompt_cache_retention": str,
    "prompt_cache_options": dict,
    "service_tier": str,
}


FORMS: Final = frozenset(["response_format", "structured_outputs", "guided_json", "tools", "tool_choice", "chat_template_kwargs"])
"""Fields that hold JSON schemas, or go to the chat template, in which a null says something."""
VERBATIM: Final = FORMS | {"messages"}


def fields_of(body: bytes) -> dict[str, Any]:
    """Returns the body as an object without inert and null fields, and without forms that ask for nothing. Raises ApiError."""
    try:
        value = msgspec.json.decode(body)
        if isinstance(value, dict):
            value = {name: item if name in VERBATIM else plain(item) for name, item in value.items() if item is not None}
    except UnicodeDecodeError as error:
        message = f"The body is not valid UTF-8: byte 0x{error.object[error.start]:02x} starts no character."
        raise invalid(message) from error
    except RecursionError as error:
        raise invalid("The body is nested too deeply.") from error
    except msgspec.DecodeError as error:
        raise invalid(f"The body is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise invalid(f"The body must be a JSON object, not {_json_name(value)}.")
    for name in INERT.keys() & value.keys():
        _check_inert(name, value.pop(name))
    for name in FORMS & value.keys():
        if value[name] in ({}, [], ""):  # asks for nothing, as everywhere
            del value[name]
    return value


def converted(fields: Any, kind: type[Fields], unknown: UnknownFields | None, where: str = "") -> Fields:
    """Makes the fields into a `kind`. Unknown ones go into `unknown`, or are refused where it is None. Raises ApiError.

    `where` is the object's path in the body."""
    if unknown is not None:
        fields = unknown.taken_from(fields, kind, where)
    try:
        return msgspec.convert(fields, kind, str_keys=True)
    except msgspec.ValidationError as error:
        raise named(error, where) from error


def _check_inert(name: str, value: Any) -> None:
    try:
        msgspec.convert(value, INERT[name])
    except msgspec.ValidationError as error:
        raise named(error, prefix=name) from error


_AT = re.compile(r"^(?P<what>.*?)(?: - at (?P<key>`key` in )?`\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<name>.*)`$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>.*)`$", re.DOTALL)


def named(error: msgspec.ValidationError, prefix: str = "") -> ApiError:
    """Returns an ApiError whose `param` is the path in msgspec's message."""
    match = _AT.match(str(error))
    assert match is not None
    what, path = match["what"], match["path"] or ""
    path = f"{prefix}.{path}".rstrip(".").replace(".[", "[") if prefix else path
    if unknown := _UNKNOWN.match(what):
        param = f"{path}.{unknown['name']}" if path else unknown["name"]
        return invalid(f"Unknown parameter: `{param}`.", param, FailureCode.UNKNOWN_PARAMETER)
    if missing := _MISSING.match(what):
        param = f"{path}.{missing['name']}" if path else missing["name"]
        return invalid(f"Missing required parameter: `{param}`.", param, FailureCode.MISSING_REQUIRED_PARAMETER)
    if match["key"]:
        what = f"A key is wrong: {what[0].lower()}{what[1:]}"
    return invalid(f"Invalid value for `{path}`: {what[0].lower()}{what[1:]}.", path or None, FailureCode.INVALID_VALUE)


def _json_name(value: Any) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}
    return names.get(type(value), "null")
