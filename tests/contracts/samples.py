"""Sample values of every message, made from its type alone."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec import inspect

import prfaas.contracts

Plain = dict[str, Any]
"""A message as MessagePack has it."""


def messages() -> dict[str, type[msgspec.Struct]]:
    """Returns every struct of the contracts by name."""
    return {message.__name__: message for message in _structs()}


def _structs() -> Iterator[type[msgspec.Struct]]:
    for module in pkgutil.iter_modules(prfaas.contracts.__path__):
        for value in vars(importlib.import_module(f"prfaas.contracts.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, msgspec.Struct) and value.__module__.startswith("prfaas.contracts"):
                yield value


def sample(message: type[msgspec.Struct], *, whole: bool = True, added: Plain | None = None) -> Plain:
    """Returns a sample of a message: with every field, or with the required ones only.

    `added` is put into the message and into every struct in it, as fields of a later version would be."""
    return _struct(_type_of(message), whole, added or {})


def fields(message: type[msgspec.Struct]) -> dict[str, bool]:
    """Returns whether a field is required, by the name that it has in the message."""
    return {field.encode_name: field.required for field in _type_of(message).fields}


def _type_of(message: type[msgspec.Struct]) -> inspect.StructType:
    found = inspect.type_info(message)
    assert isinstance(found, inspect.StructType)
    return found


def _struct(of: inspect.StructType, whole: bool, added: Plain) -> Plain:
    tag = {} if of.tag_field is None else {of.tag_field: of.tag}
    return tag | {field.encode_name: _any(field.type, whole, added) for field in of.fields if whole or field.required} | added


def _any(of: inspect.Type, whole: bool, added: Plain) -> Any:
    def inner(one: inspect.Type) -> Any:
        return _any(one, whole, added)

    match of:
        case inspect.Metadata():
            return inner(of.type)
        case inspect.StructType():
            return _struct(of, whole, added)
        case inspect.UnionType():
            return inner(next(each for each in of.types if not isinstance(each, inspect.NoneType)))
        case inspect.VarTupleType() | inspect.ListType() | inspect.SetType() | inspect.FrozenSetType():
            return [inner(of.item_type)]
        case inspect.TupleType():
            return [inner(each) for each in of.item_types]
        case inspect.DictType():
            return {inner(of.key_type): inner(of.value_type)}
        case inspect.EnumType():
            return next(iter(of.cls)).value
        case inspect.LiteralType():
            return of.values[0]
    return _SIMPLE[type(of)](of)


def _number(of: Any) -> int | float:
    least: int | float = 1 if of.ge is None else max(of.ge, 1)
    return least if of.le is None else min(least, of.le)


_SIMPLE: dict[type[inspect.Type], Callable[[Any], Any]] = {
    inspect.IntType: _number,
    inspect.FloatType: lambda of: float(_number(of)),
    inspect.StrType: lambda of: "x",
    # A prompt's tokens have four bytes each.
    inspect.BytesType: lambda of: b"\1\0\0\0",
    inspect.BoolType: lambda of: True,
    inspect.AnyType: lambda of: 1,
}
