"""Bounds on requests whose bodies are arriving, or have arrived and wait to be read."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(eq=False)
class BodyPlace:
    """One body."""

    client: str
    held_bytes: int = 0
    arriving: bool = True
    """False once the whole body is there. It keeps its place then until it is parsed."""


class BodyPlaces:
    """Places for `max_arriving` bodies that are arriving, and for `max_bytes` bytes of all. Pure.

    At a bound a body gives way: of the client that holds the most, the one that began to arrive first. So slow bodies never
    hold the places of quick ones, and one client's bodies never those of others."""

    def __init__(self, max_arriving: int, max_bytes: int) -> None:
        self._max_arriving = max_arriving
        self._max_bytes = max_bytes
        self._places: dict[BodyPlace, None] = {}  # the oldest first
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._places)

    def enter(self, client: str) -> tuple[BodyPlace, list[BodyPlace]]:
        """Returns a new place, and those that give way to it."""
        given_up: list[BodyPlace] = []
        if sum(place.arriving for place in self._places) >= self._max_arriving:
            counts: dict[str, int] = {}
            for place in self._arriving():
                counts[place.client] = counts.get(place.client, 0) + 1
            most = max(counts, key=counts.__getitem__)
            given_up.append(next(place for place in self._arriving() if place.client == most))
            self.leave(given_up[0])
        place = BodyPlace(client)
        self._places[place] = None
        return place, given_up

    def grow(self, place: BodyPlace, by_bytes: int) -> list[BodyPlace]:
        """Counts bytes that have arrived. Returns the places that give way to them, possibly this one."""
        if place not in self._places:  # it has given way already
            return []
        assert place.arriving
        place.held_bytes += by_bytes
        self.held_bytes += by_bytes
        given_up: list[BodyPlace] = []
        while self.held_bytes > self._max_bytes:
            held: dict[str, int] = {}
            for each in self._arriving():
                held[each.client] = held.get(each.client, 0) + each.held_bytes
            if not any(held.values()):  # the bytes are those of bodies that are whole
                break
            most = max(held, key=held.__getitem__)
            given_up.append(next(each for each in self._arriving() if each.client == most and each.held_bytes))
            self.leave(given_up[-1])
        return given_up

    def leave(self, place: BodyPlace) -> None:
        """Gives a place back; more than once is no error."""
        if place in self._places:
            del self._places[place]
            self.held_bytes -= place.held_bytes

    def _arriving(self) -> Iterator[BodyPlace]:
        return (place for place in self._places if place.arriving)

    def validate(self) -> None:
        assert self.held_bytes == sum(place.held_bytes for place in self._places)
        assert sum(place.arriving for place in self._places) <= self._max_arriving
        assert self.held_bytes <= self._max_bytes
