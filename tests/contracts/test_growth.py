"""Messages may grow: a process of the version before ignores the fields that it does not know, in every message."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

import prfaas.contracts
from prfaas.contracts.to_prefill import CancelPrefill
from prfaas.contracts.wire import decode, encode


def messages() -> Iterator[type[msgspec.Struct]]:
    for module in pkgutil.iter_modules(prfaas.contracts.__path__):
        for value in vars(importlib.import_module(f"prfaas.contracts.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, msgspec.Struct) and value.__module__.startswith("prfaas.contracts"):
                yield value


MESSAGES = {message.__name__: message for message in messages()}


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_no_message_refuses_or_mistakes_a_field_of_a_later_version(name: str) -> None:
    config = MESSAGES[name].__struct_config__
    assert not config.forbid_unknown_fields
    assert not config.array_like, "a field of an array is known by its place"


def test_a_message_with_fields_of_a_later_version_is_read() -> None:
    (field, *_) = msgspec.structs.fields(CancelPrefill)
    plain: dict[str, Any] = msgspec.msgpack.decode(encode(_any(CancelPrefill)))
    assert field.encode_name in plain
    grown = plain | {"added_later": [1, {"a": None}]}
    assert decode(msgspec.msgpack.encode(grown), CancelPrefill) == _any(CancelPrefill)


def _any(message: type[msgspec.Struct]) -> Any:
    """Returns a message whose required fields are the least that their types allow."""
    values = {int: 1, str: "x", float: 1.0}
    required = {field.name: field.type for field in msgspec.structs.fields(message) if field.required}
    return message(**{name: values[getattr(kind, "__origin__", kind)] for name, kind in required.items()})
