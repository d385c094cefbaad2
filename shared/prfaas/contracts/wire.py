"""Encoding of messages: tagged msgspec structs as MessagePack; prompts as packed little-endian uint32."""

from array import array
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec

if TYPE_CHECKING:
    from typing_extensions import TypeForm  # what type[...] is for a class, for unions too

Message = TypeVar("Message")


class BadMessageError(ValueError):
    """A message did not decode into the type its subject promises."""


def encode(message: Any) -> bytes:
    return msgspec.msgpack.encode(message)


@cache
def _decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind)


def decode(data: bytes, kind: "TypeForm[Message]") -> Message:
    """Raises BadMessageError; `kind` may be a union of tagged structs."""
    try:
        message: Message = _decoder(cast(Any, kind)).decode(data)
        return message
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        name = getattr(kind, "__name__", str(kind))
        raise BadMessageError(f"a message of {len(data)} bytes is no {name}: {error}") from error


def pack_tokens(token_ids: Sequence[int]) -> bytes:
    return array("I", token_ids).tobytes()


def unpack_tokens(packed: bytes) -> list[int]:
    if len(packed) % 4:
        raise BadMessageError(f"packed tokens are 4 bytes each, but {len(packed)} bytes came")
    return array("I", packed).tolist()
