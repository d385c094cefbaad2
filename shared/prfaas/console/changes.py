"""Changes between two states, and a state that follows them. Pure."""

from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec

from prfaas.console.schema import SECTIONS, ChangesEvent

Encoded = Mapping[str, Mapping[str, bytes]]
"""A state: section -> key -> JSON text of the item. It is never changed, so that all viewers may share it."""
NOTHING: Final[Encoded] = {}

Item = TypeVar("Item", bound=msgspec.Struct)
_encoder = msgspec.json.Encoder()
_decode_event = msgspec.json.Decoder(ChangesEvent)
_decoders: dict[str, msgspec.json.Decoder[Any]] = {name: msgspec.json.Decoder(kind) for name, kind in SECTIONS.items()}


def encoded(sections: Mapping[str, Mapping[str, msgspec.Struct]]) -> Encoded:
    return {name: {key: _encoder.encode(item) for key, item in items.items()} for name, items in sections.items()}


def changes(old: Encoded, new: Encoded, at_unix_s: float) -> bytes | None:
    """Returns the event that makes `new` of `old`, as JSON; None where they are the same."""
    changed: dict[str, dict[str, msgspec.Raw]] = {}
    gone: dict[str, tuple[str, ...]] = {}
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name, {}), new.get(name, {})
        if items := {key: msgspec.Raw(item) for key, item in after.items() if before.get(key) != item}:
            changed[name] = items
        if lost := tuple(key for key in before if key not in after):
            gone[name] = lost
    if not changed and not gone:
        return None
    return _encoder.encode(ChangesEvent(at_unix_s=at_unix_s, set=changed, gone=gone))


class FollowedState:
    """State at the other end of the stream. Sections and fields of a later version are left out."""

    def __init__(self) -> None:
        self.at_unix_s = 0.0
        self._sections: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}

    def apply(self, event: bytes | str) -> None:
        """Raises msgspec.DecodeError for what is no event of this schema; the state is as before then."""
        told = _decode_event.decode(event)
        decoded = {
            name: {key: _decoders[name].decode(item) for key, item in items.items()}
            for name, items in told.set.items()
            if name in SECTIONS
        }
        self.at_unix_s = told.at_unix_s
        for name, items in decoded.items():
            self._sections[name].update(items)
        for name, keys in told.gone.items():
            for key in keys:
                self._sections.get(name, {}).pop(key, None)

    def section(self, name: str, kind: type[Item]) -> dict[str, Item]:
        """Returns the items of one section, whose kind is that of SECTIONS."""
        assert SECTIONS[name] is kind
        return self._sections[name]
