"""Fields of a request that no API has, left out where an operator wants them ignored."""

from collections.abc import Callable
from functools import cache
from typing import Any, Final

import msgspec
from msgspec import inspect

NAMED: Final = 16
"""Most fields of a request whose paths are kept, each cut to NAME_CHARS: a client chooses both."""
NAME_CHARS: Final = 128

Note = Callable[[str], None]
Walk = Callable[[Any, str, Note], Any]
"""Takes a value, its path, and where to note unknown fields. Returns the value without them."""


class UnknownFields:
    """Fields of one request that were left out."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []
        """Paths of the first ones."""

    def taken_from(self, value: Any, kind: type[msgspec.Struct], where: str = "") -> Any:
        """Returns a decoded value without the fields that `kind` and the types in it do not have. `where` is its path."""
        walk = _walk_of(kind)
        return value if walk is None else walk(value, where, self._note)

    def _note(self, path: str) -> None:
        self.count += 1
        if len(self.first) < NAMED:
            self.first.append(path[:NAME_CHARS])


@cache
def _walk_of(kind: type[msgspec.Struct]) -> Walk | None:
    return _walk(inspect.type_info(kind))


def _walk(info: inspect.Type) -> Walk | None:
    """Returns None for types without objects of known fields: lists of a million token ids are not looked at."""
    match info:
        case inspect.StructType():
            return _object_walk({field.encode_name: _walk(field.type) for field in info.fields})
        case inspect.ListType():
            return _list_walk(_walk(info.item_type))
        case inspect.UnionType():
            # JSON tells the members of our unions apart by their kind: at most one is an object, and one an array of objects.
            walks = [walk for member in info.types if (walk := _walk(member)) is not None]
            return _each_walk(walks) if walks else None
    return None


def _object_walk(known: dict[str, Walk | None]) -> Walk:
    def walk(value: Any, where: str, note: Note) -> Any:
        if not isinstance(value, dict):
            return value
        kept: dict[str, Any] = {}
        for name, item in value.items():
            path = f"{where}.{name}" if where else name
            if name not in known:
                note(path)
                continue
            inner = known[name]
            kept[name] = item if inner is None else inner(item, path, note)
        return kept

    return walk


def _list_walk(of_item: Walk | None) -> Walk | None:
    if of_item is None:
        return None

    def walk(value: Any, where: str, note: Note) -> Any:
        if not isinstance(value, list):
            return value
        return [of_item(item, f"{where}[{index}]", note) for index, item in enumerate(value)]

    return walk


def _each_walk(walks: list[Walk]) -> Walk:
    def walk(value: Any, where: str, note: Note) -> Any:
        for each in walks:
            value = each(value, where, note)
        return value

    return walk
