"""The JSON object of a body, its fields made into types, and errors that name the field."""

import re
from collections.abc import Collection, Mapping
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


def object_of(body: bytes, verbatim: Collection[str]) -> dict[str, Any]:
    """Returns the body as an object without null fields, each `plain` unless it is one of the `verbatim`. Raises ApiError."""
    try:
        value = msgspec.json.decode(body)
        if isinstance(value, dict):
            return plain_fields(value, verbatim)
    except UnicodeDecodeError as error:
        message = f"The body is not valid UTF-8: byte 0x{error.object[error.start]:02x} starts no character."
        raise invalid(message) from error
    except RecursionError as error:
        raise nested_too_deeply() from error
    except msgspec.DecodeError as error:
        raise invalid(f"The body is not valid JSON: {error}.") from error
    raise invalid(f"The body must be a JSON object, not {_json_name(value)}.")


def plain_fields(value: dict[str, Any], verbatim: Collection[str] = ()) -> dict[str, Any]:
    """Returns an object's fields but for null ones, each `plain` unless it is one of the `verbatim`. Raises ApiError."""
    try:
        return {name: item if name in verbatim else plain(item) for name, item in value.items() if item is not None}
    except RecursionError as error:
        raise nested_too_deeply() from error


def fields_of(body: bytes) -> dict[str, Any]:
    """Returns the body as an object without inert and null fields, and without forms that ask for nothing. Raises ApiError."""
    value = object_of(body, VERBATIM)
    take_inert(value, INERT)
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


def take_inert(fields: dict[str, Any], inert: Mapping[str, Any], where: str = "") -> None:
    """Removes fields that change nothing about an answer. Raises ApiError for one that is not of its type in `inert`."""
    for name in inert.keys() & fields.keys():
        checked(fields.pop(name), inert[name], f"{where}.{name}" if where else name)


def checked(value: Any, kind: Any, where: str) -> Any:
    """Returns the value as one of any `kind`. Raises ApiError; `where` is its path in the body."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise named(error, where) from error


def nested_too_deeply() -> ApiError:
    return invalid("The body is nested too deeply.")


def missing(path: str) -> ApiError:
    return invalid(f"Missing required parameter: `{path}`.", path, FailureCode.MISSING_REQUIRED_PARAMETER)


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
    if absent := _MISSING.match(what):
        return missing(f"{path}.{absent['name']}" if path else absent["name"])
    if match["key"]:
        what = f"A key is wrong: {what[0].lower()}{what[1:]}"
    return invalid(f"Invalid value for `{path}`: {what[0].lower()}{what[1:]}.", path or None, FailureCode.INVALID_VALUE)


def _json_name(value: Any) -> str:
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}
    return names.get(type(value), "null")
