"""A bounded number of places that tenants take in turn."""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(eq=False)
class Ticket:
    """A tenant's claim to one place."""

    tenant: str
    granted: bool = False


class TurnsCore:
    """Round robin over tenants, first come first served within one. Pure."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._places = places
        self._waiting: dict[str, deque[Ticket]] = {}  # by tenant, the next one first; no deque is empty

    def __len__(self) -> int:
        """Tickets that wait."""
        return sum(map(len, self._waiting.values()))

    @property
    def idle(self) -> bool:
        return self._free == self._places

    def join(self, tenant: str) -> Ticket:
        """Returns a ticket, granted at once where a place is free."""
        ticket = Ticket(tenant)
        if self._free:
            self._free -= 1
            ticket.granted = True
        else:
            self._waiting.setdefault(tenant, deque()).append(ticket)
        return ticket

    def leave(self, ticket: Ticket) -> Ticket | None:
        """Gives up a ticket, granted or not. Returns the ticket that gets its place."""
        if not ticket.granted:
            queue = self._waiting[ticket.tenant]
            queue.remove(ticket)
            if not queue:
                del self._waiting[ticket.tenant]
            return None
        if not self._waiting:
            self._free += 1
            return None
        tenant, queue = next(iter(self._waiting.items()))
        del self._waiting[tenant]
        following = queue.popleft()
        if queue:
            self._waiting[tenant] = queue
        following.granted = True
        return following

    def ahead(self, ticket: Ticket) -> int:
        """Counts the tickets that will be granted before this one, should no other come; 0 for a granted one."""
        if ticket.granted:
            return 0
        tenants = list(self._waiting)
        mine = tenants.index(ticket.tenant)
        rounds = self._waiting[ticket.tenant].index(ticket)
        return (
            sum(min(len(self._waiting[tenant]), rounds + (place < mine)) for place, tenant in enumerate(tenants) if place != mine)
            + rounds
        )

    def validate(self) -> None:
        assert 0 <= self._free <= self._places
        assert all(self._waiting.values()), "no tenant waits with nothing"
        assert not (self._free and self._waiting), "nobody waits while a place is free"


@dataclass(eq=False)
class Turn:
    """A ticket that a coroutine can wait for."""

    ticket: Ticket
    granted: asyncio.Event = field(default_factory=asyncio.Event)


class Turns:
    """Places for coroutines."""

    def __init__(self, places: int = 1) -> None:
        self.core = TurnsCore(places)
        self._turns: dict[Ticket, Turn] = {}

    def join(self, tenant: str) -> Turn:
        """Returns at once. `granted` of the turn is set when it has its place. `leave` must follow."""
        turn = Turn(self.core.join(tenant))
        if turn.ticket.granted:
            turn.granted.set()
        self._turns[turn.ticket] = turn
        return turn

    def leave(self, turn: Turn) -> None:
        del self._turns[turn.ticket]
        if following := self.core.leave(turn.ticket):
            self._turns[following].granted.set()

    def ahead(self, turn: Turn) -> int:
        return self.core.ahead(turn.ticket)

    @contextmanager
    def joined(self, tenant: str) -> Iterator[Turn]:
        turn = self.join(tenant)
        try:
            yield turn
        finally:
            self.leave(turn)
