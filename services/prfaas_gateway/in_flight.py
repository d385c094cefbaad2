"""The requests that wait for events. One subscription hears all of them; each has a bounded queue of its own."""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from prfaas.contracts.to_gateway import GenerateEvent


class EventOverflowError(Exception):
    """A client took its tokens too slowly, and its queue is full."""


class WorkerLostError(Exception):
    """The decode worker of a request is gone: it left, or has not been heard of."""


class EventQueue:
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._events: deque[GenerateEvent] = deque()
        self._arrived = asyncio.Event()
        self._broken: Exception | None = None
        self.worker: str | None = None
        """The decode worker that works on the request."""

    def put(self, event: GenerateEvent) -> None:
        if len(self._events) >= self._limit:
            # Dropping one would be a gap; what is queued is of no use any more either.
            self._events.clear()
            self.end(EventOverflowError(f"the client left more than {self._limit} events of its answer unread"))
        if self._broken is None:
            self._events.append(event)
        self._arrived.set()

    def end(self, error: Exception) -> None:
        """No event will come any more: what is queued is still handed out, then the error is raised."""
        self._broken = self._broken or error
        self._arrived.set()

    async def get(self, timeout_s: float) -> GenerateEvent:
        """Raises TimeoutError, EventOverflowError, WorkerLostError."""
        if not self._events and self._broken is None:
            self._arrived.clear()
            async with asyncio.timeout(max(timeout_s, 0)):
                await self._arrived.wait()
        if self._events:
            return self._events.popleft()
        assert self._broken is not None, "woken by an event or by the end"
        raise self._broken


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

    def lose(self, worker: str) -> int:
        """Ends all requests of a decode worker that is gone; says how many."""
        queues = [queue for queue in self._queues.values() if queue.worker == worker]
        for queue in queues:
            queue.end(WorkerLostError(f"decode worker {worker!r} is gone"))
        return len(queues)
