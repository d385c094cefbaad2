"""Requests that wait for events. One subscription hears all events. Each request has a bounded queue of its own."""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from prfaas.contracts.to_gateway import Failed, Finished, GenerateEvent
from prfaas.contracts.wire import BadMessageError, decode
from prfaas.telemetry.faults import FAULTS
from prfaas_gateway.decode_workers import DecodeWorker


class EventOverflowError(Exception):
    """A client took its tokens too slowly, and its queue is full."""


class WorkerLostError(Exception):
    """Loss of the decode worker of a request: it left, has not been heard of, or was started again."""


class EventsLostError(Exception):
    """Part of an answer was lost on its way, or came in a form that cannot be decoded."""


class _Addressed(msgspec.Struct):
    """The field that all events have."""

    request_id: str


_ADDRESSED = msgspec.msgpack.Decoder(_Addressed)


class EventQueue:
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._events: deque[GenerateEvent] = deque()
        self._waiter: asyncio.Future[None] | None = None
        """Wait of the one who takes the events."""
        self._broken: Exception | None = None
        self.asked: str | None = None
        """Decode worker that was asked last: events of others are not the request's."""
        self.worker: DecodeWorker | None = None
        """Process that has accepted the request."""
        self.taken = 0
        """Events that have come: the next one has this number."""
        self.has_gap = False
        """True while events before the last one that came have not."""
        self.over = False
        """True when the last event has come."""

    def put(self, event: GenerateEvent) -> None:
        """Takes the next event. One that came before is dropped. So is one that comes too early: the decode worker is asked to
        send what was lost before it, and then all that followed."""
        if event.sequence < self.taken:
            return
        self.has_gap = event.sequence > self.taken
        if self.has_gap:
            return
        self.taken += 1
        self.over = isinstance(event, Finished | Failed)
        if len(self._events) >= self._limit:
            # Dropping one would be a gap; what is queued is of no use any more either.
            self._events.clear()
            self.end(EventOverflowError(f"the client left more than {self._limit} events of its answer unread"))
        if self._broken is None:
            self._events.append(event)
        self._wake()

    def end(self, error: Exception) -> None:
        """Lets `get` raise the error once what is queued has been handed out. Later events are dropped."""
        self._broken = self._broken or error
        self._wake()

    async def get(self, timeout_s: float) -> GenerateEvent:
        """Raises TimeoutError, EventOverflowError, EventsLostError, WorkerLostError."""
        if not self._events and self._broken is None:
            assert self._waiter is None, "one task takes the events of a request"
            loop = asyncio.get_running_loop()
            # A future and a timer of its own: asyncio.timeout() costs more than all else that a token costs here.
            self._waiter = loop.create_future()
            timer = loop.call_later(max(timeout_s, 0), self._wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        if self._events:
            return self._events.popleft()
        raise self._broken or TimeoutError(f"no event came within {timeout_s:g} s")

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class InFlight:
    def __init__(self, queue_limit: int) -> None:
        self._queue_limit = queue_limit
        self._queues: dict[str, EventQueue] = {}

    def __len__(self) -> int:
        return len(self._queues)

    @contextmanager
    def open(self, request_id: str) -> Iterator[EventQueue]:
        """Opens before the request is sent anywhere: events may come before its acceptance does."""
        assert request_id not in self._queues, "request ids are unique"
        queue = self._queues[request_id] = EventQueue(self._queue_limit)
        try:
            yield queue
        finally:
            del self._queues[request_id]

    def ask(self, request_id: str, worker: str) -> None:
        """Takes events of a request from this decode worker only, which is about to be asked."""
        self._queues[request_id].asked = worker

    def hear(self, worker: str, data: bytes) -> bool:
        """Dispatches an event of `worker` as it came. One that cannot be decoded ends its own request and no other.

        Raises BadMessageError when the event names no request."""
        try:
            return self.dispatch(worker, decode(data, GenerateEvent))
        except (BadMessageError, RecursionError) as error:
            try:
                request_id = _ADDRESSED.decode(data).request_id
            except (msgspec.DecodeError, RecursionError) as unaddressed:
                raise BadMessageError(f"an event of {len(data)} bytes names no request: {unaddressed}") from error
            if (queue := self._queue_of(worker, request_id, "undecodable")) is None:
                return False
            queue.end(EventsLostError(str(error)))
            return True

    def dispatch(self, worker: str, event: GenerateEvent) -> bool:
        """Returns False for an event that no request waits for from this worker: usually the tail of a cancelled one."""
        if (queue := self._queue_of(worker, event.request_id, type(event).__name__)) is None:
            return False
        queue.put(event)
        return True

    def of_workers(self) -> dict[DecodeWorker, dict[str, int]]:
        """Returns, by decode worker, the requests that it has accepted and not ended, and the events of each that have come."""
        found: dict[DecodeWorker, dict[str, int]] = {}
        for request_id, queue in self._queues.items():
            if queue.worker is not None and not queue.over:
                found.setdefault(queue.worker, {})[request_id] = queue.taken
        return found

    def gaps(self) -> set[str]:
        """Returns the requests of which an event was lost, as a later one shows."""
        return {request_id for request_id, queue in self._queues.items() if queue.has_gap}

    def lose_events(self, request_id: str, why: str) -> None:
        """Ends the wait of a request whose next event will not come. An unknown one changes nothing."""
        if queue := self._queues.get(request_id):
            queue.end(EventsLostError(why))

    def _queue_of(self, worker: str, request_id: str, kind: str) -> EventQueue | None:
        """Returns the request's queue; None for an event of another worker than the one asked, and for one of no request."""
        queue = self._queues.get(request_id)
        if queue is not None and queue.asked == worker:
            return queue
        (FAULTS.late if queue is None else FAULTS.foreign)[kind] += 1
        return None

    def lose(self, worker: DecodeWorker) -> int:
        """Ends the waits of all requests of a decode worker that is gone. Returns their number."""
        queues = [queue for queue in self._queues.values() if queue.worker == worker]
        for queue in queues:
            queue.end(WorkerLostError(f"decode worker {worker.name!r} is gone"))
        return len(queues)
