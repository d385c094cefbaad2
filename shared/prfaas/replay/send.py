"""An open loop: requests leave when they are due, however long the answers to earlier ones take.

All times count from the moment at which a request is due, never from its sending: the delay of a client that falls behind is part
of the result instead of hidden (coordinated omission).
"""

import asyncio
import time
from collections.abc import Callable, Iterable

from prfaas.replay.arrival import Arrival
from prfaas.replay.client import Client, Target
from prfaas.replay.prompts import Prompt, Prompts
from prfaas.replay.record import Record
from prfaas.replay.schedule import Due, Schedule, TimedSchedule

MAX_IN_FLIGHT = 4096
"""Requests at once above which more are not sent but recorded as `client_full`: the result would say nothing about the server."""


async def replay(
    target: Target, arrivals: Iterable[Arrival], prompts: Prompts, on_record: Callable[[Record], None] = lambda record: None
) -> list[Record]:
    """Sends every request when it is due and waits for all answers. Arrivals are in order of time; records too."""
    records: list[Record] = []
    start_s = time.monotonic()
    async with Client(target, start_s) as client:
        sender = Sender(client, TimedSchedule(enumerate(arrivals)), prompts, start_s, on_record, records.append)
        await sender.run()
    return records


class Sender:
    """Sends a schedule. `on_sent` gets each record as it leaves, `on_record` as it ends."""

    def __init__(
        self,
        client: Client,
        schedule: Schedule,
        prompts: Prompts,
        start_s: float,
        on_record: Callable[[Record], None],
        on_sent: Callable[[Record], None] = lambda record: None,
        request_ids: str = "",
    ) -> None:
        """`start_s`: of time.monotonic(). `request_ids`: prefix of the x-request-id that each request gets; none when empty."""
        self._client = client
        self._schedule = schedule
        self._prompts = prompts
        self._start_s = start_s
        self._on_record = on_record
        self._on_sent = on_sent
        self._request_ids = request_ids
        self._stopped = False
        self._wake = asyncio.Event()
        self._in_flight: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        """Ends the sending; answers under way are still waited for."""
        self._stopped = True
        self._wake.set()

    def cut(self) -> None:
        """Ends the sending and all requests under way, which are recorded as `interrupted`."""
        self.stop()
        for task in self._in_flight:
            task.cancel()

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    async def run(self) -> None:
        """Returns when everything is answered, or all that was sent when stopped."""
        try:
            await self._send_all()
            while self._in_flight:
                await asyncio.wait(self._in_flight)
        finally:
            self.cut()
            await asyncio.gather(*self._in_flight, return_exceptions=True)

    async def _send_all(self) -> None:
        prepared: tuple[Due, Prompt] | None = None
        while not self._stopped:
            self._wake.clear()
            due = self._schedule.peek()
            if due is None:
                if not self._in_flight:
                    return
                await self._wake.wait()
                continue
            # Made before it is due: a long prompt takes a while. An answer may meanwhile bring another one to the front.
            if prepared is None or prepared[0] is not due:
                prepared = (due, self._prompts(due.number, due.arrival))
            left_s = self._start_s + due.due_s - time.monotonic()
            if left_s > 0:
                await self._sleep(left_s)
                continue
            self._schedule.pop()
            self._send(due, prepared[1])
            prepared = None
            # The request's first bytes leave before the next prompt is made.
            await asyncio.sleep(0)

    async def _sleep(self, duration_s: float) -> None:
        """Returns after the time, or sooner when an answer may have changed what is due next."""
        timer = asyncio.get_running_loop().call_later(duration_s, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    def _send(self, due: Due, prompt: Prompt) -> None:
        request_id = f"{self._request_ids}-{due.number}" if self._request_ids else ""
        record = Record(arrival=due.arrival._replace(arrival_s=due.due_s), index=due.number, request_id=request_id)
        self._on_sent(record)
        if len(self._in_flight) >= MAX_IN_FLIGHT:
            record.error, record.message = "client_full", f"{MAX_IN_FLIGHT} requests are in flight"
            self._over(due, record)
            return
        task = asyncio.create_task(self._one(due, record, prompt))
        self._in_flight.add(task)
        task.add_done_callback(self._in_flight.discard)
        task.add_done_callback(lambda task: self._wake.set())

    async def _one(self, due: Due, record: Record, prompt: Prompt) -> None:
        try:
            await self._client.ask(record, prompt)
        except asyncio.CancelledError:
            record.error, record.message = "interrupted", "the run was ended before the answer"
        self._over(due, record)

    def _over(self, due: Due, record: Record) -> None:
        self._schedule.answered(due, time.monotonic() - self._start_s)
        self._on_record(record)
