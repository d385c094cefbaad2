"""Encoding of messages: tagged msgspec structs as MessagePack; prompts as packed little-endian uint32."""

from array import array
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec

if TYPE_CHECKING:
    from typing_extensions import TypeForm  # what type[...] is for a class, for unions too

Message = TypeVar("Message")


class BadMessageError(ValueError):
    """Raised for every message that does not decode into the type its subject promises, whatever is wrong with it."""


def encode(message: Any) -> bytes:
    return msgspec.msgpack.encode(message)


@cache
def _decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind)


@cache
def _json_decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def decode(data: bytes | memoryview, kind: "TypeForm[Message]") -> Message:
    """Reads MessagePack. Raises BadMessageError; `kind` may be a union of tagged structs."""
    return cast(Message, _decoded(_decoder(cast(Any, kind)).decode, data, kind))


def decode_json(data: bytes | memoryview, kind: "TypeForm[Message]") -> Message:
    """Reads JSON, as NATS servers write it. Raises BadMessageError."""
    return cast(Message, _decoded(_json_decoder(cast(Any, kind)).decode, data, kind))


def _decoded(decoder: Callable[[bytes | memoryview], Any], data: bytes | memoryview, kind: Any) -> Any:
    try:
        return decoder(data)
    except Exception as error:
        # Bytes from outside raise more than msgspec's own errors: RecursionError for deep nesting, also in fields that are not
        # read, UnicodeDecodeError for bad text, MemoryError for sizes that are lies.
        name = getattr(kind, "__name__", str(kind))
        raise BadMessageError(f"a message of {len(data)} bytes is no {name}: {error}") from error


def pack_tokens(token_ids: Sequence[int]) -> bytes:
    return array("I", token_ids).tobytes()


def unpack_tokens(packed: bytes) -> list[int]:
    """Raises BadMessageError."""
    if len(packed) % 4:
        raise BadMessageError(f"packed tokens are 4 bytes each, but {len(packed)} bytes came")
    return array("I", packed).tolist()
