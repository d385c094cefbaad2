"""Bounds on requests whose bodies are arriving, or have arrived and wait to be read."""

from dataclasses import dataclass


@dataclass(eq=False)
class BodyPlace:
    """One body."""

    client: str
    number: int
    """Bodies that began to arrive before."""
    held_bytes: int = 0


class _Client:
    """Bodies of one client that are arriving."""

    def __init__(self) -> None:
        self.arriving: dict[BodyPlace, None] = {}  # the oldest first; never empty
        self.held_bytes = 0

    @property
    def oldest(self) -> BodyPlace:
        return next(iter(self.arriving))


class BodyPlaces:
    """Places for `max_arriving` bodies that are arriving, and for `max_bytes` bytes of all. Pure.

    At a bound a body gives way: of the client that holds the most, the one that began to arrive first. So slow bodies never
    hold the places of quick ones, and one client's bodies never those of others. Where each body is another client's, finding it
    takes a time in proportion to the bodies; else to the clients."""

    def __init__(self, max_arriving: int, max_bytes: int) -> None:
        self._max_arriving = max_arriving
        self._max_bytes = max_bytes
        self._clients: dict[str, _Client] = {}
        self._arriving = 0
        self._whole: set[BodyPlace] = set()
        self._entered = 0
        self.held_bytes = 0

    def __len__(self) -> int:
        return self._arriving + len(self._whole)

    def enter(self, client: str) -> tuple[BodyPlace, list[BodyPlace]]:
        """Returns a new place, and those that give way to it."""
        given_up: list[BodyPlace] = []
        if self._arriving >= self._max_arriving:
            most = max(self._clients.values(), key=lambda each: (len(each.arriving), -each.oldest.number))
            given_up.append(most.oldest)
            self.leave(most.oldest)
        place = BodyPlace(client, self._entered)
        self._entered += 1
        self._arriving += 1
        self._clients.setdefault(client, _Client()).arriving[place] = None
        return place, given_up

    def grow(self, place: BodyPlace, by_bytes: int) -> list[BodyPlace]:
        """Counts bytes that have arrived. Returns the places that give way to them, possibly this one."""
        if not self.is_arriving(place):  # it has given way already
            return []
        place.held_bytes += by_bytes
        self._clients[place.client].held_bytes += by_bytes
        self.held_bytes += by_bytes
        given_up: list[BodyPlace] = []
        while self.held_bytes > self._max_bytes and self._clients:
            most = max(self._clients.values(), key=lambda each: (each.held_bytes, -each.oldest.number))
            if not most.held_bytes:  # the bytes are those of bodies that are whole
                break
            given_up.append(next(each for each in most.arriving if each.held_bytes))
            self.leave(given_up[-1])
        return given_up

    def arrived(self, place: BodyPlace) -> None:
        """Counts the body as whole. It keeps its place until it is parsed, and does not give way any more."""
        if self.is_arriving(place):
            held_bytes = place.held_bytes
            self.leave(place)
            self.held_bytes += held_bytes
            self._whole.add(place)

    def leave(self, place: BodyPlace) -> None:
        """Gives a place back; more than once is no error."""
        if place in self._whole:
            self._whole.remove(place)
        elif self.is_arriving(place):
            client = self._clients[place.client]
            del client.arriving[place]
            client.held_bytes -= place.held_bytes
            self._arriving -= 1
            if not client.arriving:
                del self._clients[place.client]
        else:
            return
        self.held_bytes -= place.held_bytes

    def is_arriving(self, place: BodyPlace) -> bool:
        client = self._clients.get(place.client)
        return client is not None and place in client.arriving

    def validate(self) -> None:
        arriving = [place for client in self._clients.values() for place in client.arriving]
        assert self._arriving == len(arriving) <= self._max_arriving
        assert self.held_bytes == sum(place.held_bytes for place in (*arriving, *self._whole)) <= self._max_bytes
        for client in self._clients.values():
            assert client.arriving and client.held_bytes == sum(place.held_bytes for place in client.arriving)
