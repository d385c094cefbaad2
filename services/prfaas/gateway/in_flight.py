"""The requests that wait for events. One subscription hears all of them; each has a bounded queue of its own."""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from prfaas.contracts.to_gateway import GenerateEvent


class EventOverflowError(Exception):
    """A client took its tokens too slowly, and its queue is full."""


class EventQueue:
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._events: deque[GenerateEvent] = deque()
        self._arrived = asyncio.Event()
        self._overflow = False

    def put(self, event: GenerateEvent) -> None:
        if len(self._events) >= self._limit:
            # Dropping one would be a gap; what is queued is of no use any more either.
            self._overflow = True
            self._events.clear()
        if not self._overflow:
            self._events.append(event)
        self._arrived.set()

    async def get(self, timeout_s: float) -> GenerateEvent:
        """Raises TimeoutError, EventOverflowError."""
        if not self._events and not self._overflow:
            self._arrived.clear()
            async with asyncio.timeout(max(timeout_s, 0)):
                await self._arrived.wait()
        if self._overflow:
            raise EventOverflowError(f"the client left more than {self._limit} events of its answer unread")
        return self._events.popleft()


class InFlight:
    def __init__(self, queue_limit: int) -> None:
        self._queue_limit = queue_limit
        self._queues: dict[str, EventQueue] = {}

    def __len__(self) -> int:
        return len(self._queues)

    @contextmanager
    def open(self, request_id: str) -> Iterator[EventQueue]:
        """Must be open before the request is sent anywhere: events may come before its acceptance does."""
        assert request_id not in self._queues, "request ids are unique"
        queue = self._queues[request_id] = EventQueue(self._queue_limit)
        try:
            yield queue
        finally:
            del self._queues[request_id]

    def dispatch(self, event: GenerateEvent) -> bool:
        """False when nobody waits for it: the tail of a cancelled request, usually."""
        queue = self._queues.get(event.request_id)
        if queue is None:
            return False
        queue.put(event)
        return True
