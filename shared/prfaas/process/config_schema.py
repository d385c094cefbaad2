"""Keys that a configuration struct takes: finding, coercing, explaining and listing them."""

import ast
import difflib
import functools
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect as types

_COLLECTIONS = types.ListType | types.VarTupleType | types.SetType | types.FrozenSetType


class ConfigError(ValueError):
    """A wrong configuration; the message is a sentence for its author."""


class Key(NamedTuple):
    type: types.Type
    required: str
    """The case in which it must be set, for --help; empty: none."""
    default: Any
    doc: str


class Schema:
    def __init__(self, cls: type[msgspec.Struct]) -> None:
        self.doc = inspect.cleandoc(cls.__doc__ or "")
        self._gone: Mapping[str, str] = getattr(cls, "gone", {})
        self.keys: dict[str, Key] = {}
        self.groups: set[str] = set()
        self._walk(cls, "")

    def _walk(self, cls: type[msgspec.Struct], prefix: str, required: str = "required") -> None:
        docs = field_docs(cls)
        info = types.type_info(cls)
        assert isinstance(info, types.StructType)
        for field in info.fields:
            key = prefix + field.encode_name
            nested = _struct(field.type)
            if nested is not None:
                self.groups.add(key)
                self._walk(nested.cls, f"{key}.", required if field.required else f"required where {key} is used")
                continue
            default = field.default
            if field.default_factory is not msgspec.NODEFAULT:
                default = field.default_factory()
            self.keys[key] = Key(field.type, required if field.required else "", default, docs.get(field.name, ""))

    def is_group(self, key: str) -> bool:
        return key in self.groups

    def find(self, key: str, origin: str) -> types.Type:
        """Returns a key's type. Raises ConfigError for a key that does not exist, with the one that was perhaps meant."""
        if key in self.keys:
            return self.keys[key].type
        if key in self.groups:
            inside = ", ".join(f"`{known}`" for known in self.keys if known.startswith(f"{key}."))
            raise ConfigError(f"{origin}: `{key}` is a group of keys, it has no value of its own; set {inside}.")
        if key in self._gone:
            raise ConfigError(f"{origin}: key `{key}` is gone: {self._gone[key]}.")
        meant = difflib.get_close_matches(key, self.keys, n=1)
        hint = f"did you mean `{meant[0]}`?" if meant else "--help lists all keys."
        raise ConfigError(f"{origin}: unknown key `{key}`; {hint}")

    def explain(self, error: msgspec.ValidationError, origins: Mapping[str, str]) -> ConfigError:
        """Returns the error with the place where the value was set; msgspec only knows what was wrong and the path."""
        what, _, path = str(error).partition(" - at `$")
        key = path.rstrip("`").lstrip(".")
        missing = re.fullmatch(r"Object missing required field `(.+)`", what)
        if missing and "[" not in key:
            full = f"{key}.{missing[1]}" if key else missing[1]
            inside = full if full in self.keys else next(known for known in self.keys if known.startswith(f"{full}."))
            return ConfigError(f"key `{inside}` is not set; give it in the file, the environment or as `--{inside}`.")
        if not key:  # from a struct's own check, whose sentence begins with the key
            named = re.match("`([^`]+)`", what)
            return ConfigError(f"{origins.get(named[1] if named else '', 'configuration')}: {what}.")
        origin = next((origins[known] for known in origins if key == known or key.startswith((f"{known}[", f"{known}."))), "")
        if chosen := re.fullmatch("Invalid enum value '(.*)'", what):
            instead = self._gone.get(f"{key} = {chosen[1]}")
            what += f", which is gone: {instead}" if instead else f"; expected {type_name(self.keys[key].type)}"
        return ConfigError(f"{origin or 'configuration'}: key `{key}`: {what[:1].lower()}{what[1:]}.")

    def help(self, prefix: str) -> str:
        lines = [self.doc, ""] if self.doc else []
        lines += [
            f"Each key is a flag (`--a.b value`), an environment variable ({prefix}_A__B) and a TOML key (`[a] b`).",
            "",
            "  --config FILE",
            "      TOML file, read first; the environment wins over it, and flags over both.",
        ]
        for name, key in self.keys.items():
            shown = "" if key.default is None or key.default is msgspec.NODEFAULT else _show(key.default)
            state = key.required or (f"default {shown}" if shown else "")
            lines.append(f"  --{name}  {type_name(key.type)}{f'  ({state})' if state else ''}")
            lines += textwrap.wrap(key.doc, 110, initial_indent="      ", subsequent_indent="      ")
        return "\n".join(lines)


def take_string(text: str, kind: types.Type, key: str, origin: str) -> Any:
    """Reads a string as its key takes it: collections are comma-separated or JSON, tables JSON; msgspec takes scalars itself."""
    for member in _members(kind):
        if isinstance(member, _COLLECTIONS | types.DictType):
            if text[:1] in ("[", "{") or isinstance(member, types.DictType):
                try:
                    return msgspec.json.decode(text)
                except msgspec.DecodeError as error:
                    raise ConfigError(f"{origin}: key `{key}` is no JSON: {error}.") from error
            return [part.strip() for part in text.split(",") if part.strip()]
    return text


@functools.cache
def field_docs(cls: type[msgspec.Struct]) -> dict[str, str]:
    """Returns the string under each field, read from the source where there is one."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not issubclass(base, msgspec.Struct) or base is msgspec.Struct:
            continue
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        except (OSError, TypeError):
            continue
        assert isinstance(body, ast.ClassDef)
        for field, after in zip(body.body, body.body[1:], strict=False):
            match field, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    docs[name] = " ".join(text.split())
    return docs


def type_name(kind: types.Type) -> str:
    match kind:
        case types.UnionType():
            return " | ".join(type_name(member) for member in kind.types if not isinstance(member, types.NoneType))
        case types.LiteralType():
            return "|".join(str(value) for value in kind.values)
        case types.EnumType():
            return "|".join(str(member.value) for member in kind.cls)
        case types.IntType() | types.FloatType():
            bounds = {">": kind.gt, ">=": kind.ge, "<": kind.lt, "<=": kind.le}
            shown = [f"{sign} {bound:g}" for sign, bound in bounds.items() if bound is not None]
            return " ".join(["int" if isinstance(kind, types.IntType) else "number", *shown])
        case types.StructType():
            return "table"
        case types.DictType():
            return "table (JSON)"
        case types.ListType() | types.VarTupleType() | types.SetType() | types.FrozenSetType():
            return f"list of {type_name(kind.item_type)}"
        case types.BoolType():
            return "true|false"
        case _:
            return type(kind).__name__.removesuffix("Type").lower()


def _members(kind: types.Type) -> Iterator[types.Type]:
    while isinstance(kind, types.Metadata):
        kind = kind.type
    if isinstance(kind, types.UnionType):
        for member in kind.types:
            yield from _members(member)
    else:
        yield kind


def _struct(kind: types.Type) -> types.StructType | None:
    return next((member for member in _members(kind) if isinstance(member, types.StructType)), None)


def _show(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple | set | frozenset) else str(value)
