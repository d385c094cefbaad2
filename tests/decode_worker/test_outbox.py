"""Events on their way to gateways while the connection comes and goes."""

import asyncio
from typing import Any

from prfaas.contracts.to_gateway import Tokens
from prfaas_decode_worker.events import Emit
from prfaas_decode_worker.outbox import RESEND_ROOM, Outbox
from prfaas_decode_worker.sent_events import KEPT_EVENTS


class Bus:
    """A connection that a test opens and closes, and what was sent on it."""

    def __init__(self) -> None:
        self.connected = False
        self.closed = asyncio.Event()
        self.sent: list[Any] = []

    async def publish(self, subject: str, event: Any) -> None:
        assert self.connected or self.closed.is_set(), "sent while nobody could hear it"
        self.sent.append(event)


def emit(sequence: int) -> Emit:
    return Emit("reply", Tokens(request_id="r", sequence=sequence, text="a", token_ids=(1,)))


async def test_events_wait_in_order_for_the_connection_and_the_batch_with_them() -> None:
    bus, outbox = Bus(), Outbox("home", "d0", lambda request_id: None)
    running = asyncio.create_task(outbox.run(bus))  # type: ignore[arg-type]
    try:
        for sequence in range(3):
            outbox.put(emit(sequence))
        flushed = asyncio.create_task(outbox.join())
        await asyncio.sleep(0.2)
        assert bus.sent == [] and not flushed.done()
        bus.connected = True
        async with asyncio.timeout(30.0):
            await flushed
        assert [event.sequence for event in bus.sent] == [0, 1, 2]
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_a_connection_that_is_closed_for_good_is_not_waited_for() -> None:
    bus, outbox = Bus(), Outbox("home", "d0", lambda request_id: None)
    running = asyncio.create_task(outbox.run(bus))  # type: ignore[arg-type]
    try:
        bus.closed.set()
        outbox.put(emit(0))
        async with asyncio.timeout(30.0):
            await outbox.join()
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_a_gateway_that_asks_again_and_again_fills_no_memory() -> None:
    bus, outbox = Bus(), Outbox("home", "d0", lambda request_id: None)
    for sequence in range(KEPT_EVENTS):
        outbox.put(emit(sequence))
    for _ in range(10 * RESEND_ROOM // KEPT_EVENTS):
        outbox.resend({"r": 0}, "reply")
    bus.connected = True
    running = asyncio.create_task(outbox.run(bus))  # type: ignore[arg-type]
    try:
        async with asyncio.timeout(30.0):
            await outbox.join()
        assert RESEND_ROOM <= len(bus.sent) < RESEND_ROOM + KEPT_EVENTS
        # What it asked for in vain it has when it asks again.
        outbox.resend({"r": KEPT_EVENTS - 1}, "reply")
        async with asyncio.timeout(30.0):
            await outbox.join()
        assert bus.sent[-1].sequence == KEPT_EVENTS - 1
    finally:
        running.cancel()
        await asyncio.wait([running])
