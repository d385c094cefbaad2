"""Untrusted JSON: bytes in, fields out, and what msgspec finds wrong as an ApiError that names the field."""

import re
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import msgspec

from prfaas.contracts.codes import FailureCode
from prfaas_gateway.openai.errors import ApiError, invalid
from prfaas_gateway.openai.plain import plain

Value = TypeVar("Value")


def fields_of(body: bytes, verbatim: Collection[str] = ()) -> dict[str, Any]:
    """Returns the body as an object whose values are `plain`, but for those of the `verbatim` fields. Raises ApiError."""
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


def take_inert(fields: dict[str, Any], inert: Mapping[str, Any], where: str = "") -> None:
    """Removes fields that change nothing about an answer. Raises ApiError for one that is not of its type in `inert`."""
    for name in inert.keys() & fields.keys():
        converted(fields.pop(name), inert[name], f"{where}.{name}" if where else name)


def converted(value: Any, kind: type[Value], where: str = "", *, str_keys: bool = False) -> Value:
    """Returns the value as one of `kind`. Raises ApiError; `where` is the value's path."""
    try:
        return msgspec.convert(value, kind, str_keys=str_keys)
    except msgspec.ValidationError as error:
        raise _named(error, where) from error


def plain_fields(value: dict[str, Any], verbatim: Collection[str] = ()) -> dict[str, Any]:
    """Returns an object's fields but for null ones, each `plain` unless it is one of the `verbatim`. Raises ApiError."""
    try:
        return {name: item if name in verbatim else plain(item) for name, item in value.items() if item is not None}
    except RecursionError as error:
        raise nested_too_deeply() from error


def nested_too_deeply() -> ApiError:
    return invalid("The body is nested too deeply.")


def missing(path: str) -> ApiError:
    return invalid(f"Missing required parameter: `{path}`.", path, FailureCode.MISSING_REQUIRED_PARAMETER)


_AT = re.compile(r"^(?P<what>.*?)(?: - at (?P<key>`key` in )?`\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<name>.*)`$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>.*)`$", re.DOTALL)


def _named(error: msgspec.ValidationError, prefix: str) -> ApiError:
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
