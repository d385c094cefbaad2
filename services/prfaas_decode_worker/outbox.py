"""Events of requests on their way to gateways, and those of attempts to the scheduler, in order."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError
from prfaas.contracts import subjects
from prfaas.contracts.codes import FailureCode
from prfaas.contracts.to_gateway import Failed
from prfaas.telemetry.logs import get_logger
from prfaas.worker.faults import fault_text
from prfaas_decode_worker.events import Emit, TellScheduler, request_id_of
from prfaas_decode_worker.sent_events import SentEvents

OTHERS_BACK_S: Final = 0.5
"""Time after the connection is back before anything is sent: who hears it dials again every 0.2 s."""
_POLL_S: Final = 0.05

RESEND_ROOM: Final = 4096
"""Events in the queue beyond which none is sent again: a gateway that asks faster than they leave would fill it."""

log = get_logger(__name__)


class Outbox:
    """One queue, so that a request's events keep their order. It is bounded: the batch waits between two steps until it is empty.

    An event that is lost on the bus is a gap, and sent again when the gateway asks for it. One that cannot be sent at all, as it
    cannot be encoded, ends its request: `give_up` is called with the request's id."""

    def __init__(self, site: str, worker: str, give_up: Callable[[str], None]) -> None:
        self._site = site
        self._worker = worker
        self._give_up = give_up
        self._queue: asyncio.Queue[Emit | TellScheduler] = asyncio.Queue()
        self._sent = SentEvents()

    def put(self, order: Emit | TellScheduler) -> None:
        if isinstance(order, Emit):
            self._sent.keep(order, time.monotonic())
        self._queue.put_nowait(order)

    def end(self, request_id: str) -> None:
        """Takes that no event of a request will follow."""
        self._sent.end(request_id, time.monotonic())

    def resend(self, lost: Mapping[str, int], reply_to: str) -> None:
        """Sends the events of requests again, each from its first lost one on, where they are kept and went to `reply_to`.

        What the queue has no room for is left to the next question."""
        for request_id, sequence in lost.items():
            if self._queue.qsize() >= RESEND_ROOM:
                return
            again = self._sent.since(request_id, sequence, reply_to)
            if again:
                log.info("events_sent_again", request_id=request_id, from_sequence=sequence, events=len(again))
            for emit in again:
                self._queue.put_nowait(emit)

    async def join(self) -> None:
        """Returns when all that was put is on the bus."""
        await self._queue.join()

    async def run(self, bus: ControlBus) -> None:
        while True:
            order = await self._queue.get()
            try:
                await self._send(bus, order)
            finally:
                self._queue.task_done()

    async def _send(self, bus: ControlBus, order: Emit | TellScheduler) -> None:
        await _until_connected(bus)
        try:
            if isinstance(order, Emit):
                await bus.publish(subjects.events_from(order.reply_to, self._worker), order.event)
            else:
                await bus.publish(subjects.attempts(self._site), order.news)
        except Exception as error:
            what = type(order.event if isinstance(order, Emit) else order.news).__name__
            log.error("event_lost", request_id=request_id_of(order), message=what, reason=fault_text(error))
            if isinstance(order, Emit) and not isinstance(error, BusError):
                await self._replace(bus, order, what, error)

    async def _replace(self, bus: ControlBus, lost: Emit, what: str, error: Exception) -> None:
        """Sends an error in the place of an event that cannot be encoded."""
        request_id = lost.event.request_id
        self._give_up(request_id)
        message = f"a {what} event of request {request_id!r} cannot be sent: {fault_text(error)}"
        failed = Failed(request_id=request_id, sequence=lost.event.sequence, code=FailureCode.INTERNAL_ERROR, message=message)
        try:
            await bus.publish(subjects.events_from(lost.reply_to, self._worker), failed)
        except BusError as lost_too:
            log.error("event_lost", request_id=request_id, message="Failed", reason=str(lost_too))


async def _until_connected(bus: ControlBus) -> None:
    """Returns at once on a living connection. What is sent on a dead one would be heard by none: the batch waits meanwhile."""
    if bus.connected:
        return
    while True:
        await asyncio.sleep(_POLL_S)
        if bus.connected or bus.closed.is_set():
            break
    await asyncio.sleep(OTHERS_BACK_S)
