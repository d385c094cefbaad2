"""A long JSON array, encoded entry by entry and sent in pieces."""

from collections.abc import Iterator
from typing import Final

import msgspec

PIECE_BYTES: Final = 64 * 1024
"""Smallest size of a piece but the last, bytes: copying one takes microseconds."""
_HOLE: Final = b"\0"
"""Stands for the entries in a body that is encoded without them. JSON text never holds a NUL: encoders escape it."""


class EncodedList:
    """A JSON array whose entries are encoded when they come.

    One encode of 8,000 tokens with 20 alternatives holds the interpreter's lock for 0.1 s, and copying its 12 MB into a body for
    another 0.03 s. No other thread and no other request gets on meanwhile, so neither is done in one go."""

    HOLE_BYTES: Final = b"[" + _HOLE + b"]"
    HOLE: Final = msgspec.Raw(HOLE_BYTES)
    """Takes the array's place in a value whose encoding is given to `fill`. One value holds it once at most."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._last = bytearray()

    def __bool__(self) -> bool:
        return bool(self._pieces or self._last)

    def append(self, entry: object) -> None:
        if self:
            self._last += b","
        self._last += msgspec.json.encode(entry)
        if len(self._last) >= PIECE_BYTES:
            self._pieces.append(bytes(self._last))
            self._last.clear()

    def raw(self) -> msgspec.Raw:
        """Returns the array in one piece: for few entries."""
        return msgspec.Raw(b"".join((b"[", *self._pieces, self._last, b"]")))

    def fill(self, encoded: bytes) -> Iterator[bytes]:
        """Yields `encoded` in pieces, with the entries in the place of HOLE where it has one."""
        before, hole, after = encoded.partition(_HOLE)
        yield before
        if hole:
            yield from self._pieces
            yield bytes(self._last)
            yield after
