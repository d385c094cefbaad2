"""One cell: three requests, the second one hit at its step, and whether all is as before afterwards."""

import asyncio
import contextlib
import time

import msgspec

from load.chaos.asking import Asked, Asking
from load.chaos.faults import INJECTIONS, Fault, Hit
from load.chaos.harness import GO_ON, go_on
from load.chaos.matrix import Cell, allowed_in
from load.chaos.residue import KVLeaks
from load.chaos.steps import is_step, of_request
from load.chaos.world import NotHealthyError, World
from prfaas.contracts.terms import Outcome
from prfaas.telemetry.fault_points import Announcement, FaultPoint, Order

HEALTH_BOUND_S = 30.0
"""Bound within which every service is well again and offloading has resumed: breaker, heartbeats, leaf connections."""
REACH_S = 40.0
BESIDE_AFTER_S = 0.5
_HEARD = (Fault.DAMAGED, Fault.DUPLICATE)
"""Faults that need the messages before the step."""


class CellResult(msgspec.Struct, frozen=True, kw_only=True):
    fault: str
    step: str
    green: bool
    why_red: list[str]
    injected: bool
    outcomes: list[str]
    """Ends of its requests: one before the fault, the one that it hits, one after it."""
    errors: list[str]
    allowed_errors: int
    wrong_tokens: int
    hangs: int
    worst_s: float
    """Longest time of a request."""
    healthy_after_s: float
    """Time from the last answer and the end of the fault until an offloaded request was answered well."""
    duration_s: float


class Trigger:
    """Waits for the step of the first request that is placed once it is armed, and does the fault there."""

    def __init__(self, world: World, cell: Cell, frames: int) -> None:
        self._world = world
        self._cell = cell
        self._frames = frames
        self._armed = False
        self._request_id = ""
        self.placed = asyncio.Event()
        """Set once the request before the armed one is placed."""
        self.fired = asyncio.Event()
        self.error = ""
        """Reason why the fault could not be done."""

    def arm(self) -> None:
        self._armed = True

    async def answer(self, announcement: Announcement) -> Order:
        if not self._armed:
            if announcement.point is FaultPoint.PLACED:
                self.placed.set()
            return GO_ON
        if not self._request_id and announcement.point in (FaultPoint.PLACING, FaultPoint.PLACED):
            self._request_id = announcement.request_id
        again = self._cell.fault is Fault.POISON
        if self.fired.is_set() and not again:
            return GO_ON
        if not self._request_id or not of_request(announcement, self._request_id):
            return GO_ON
        if not is_step(self._cell.step, announcement, self._frames):
            return GO_ON
        self.fired.set()
        try:
            process = self._world.process_of(announcement.pid)
            return await INJECTIONS[self._cell.fault](self._world, Hit(process, self._cell.step, self._request_id))
        except Exception as error:
            self.error = f"the fault could not be done: {error!r}"
            return GO_ON


class CellRunner:
    def __init__(self, world: World, asking: Asking, leaks: KVLeaks) -> None:
        self._world = world
        self._asking = asking
        self._leaks = leaks
        self._frames = 0

    async def count_frames(self) -> None:
        """Asks once without a fault, for the number of frames of a transfer."""
        numbers = [0]

        async def count(announcement: Announcement) -> Order:
            if announcement.point is FaultPoint.FRAME:
                numbers.append(announcement.number)
            return GO_ON

        self._world.harness.answer = count
        asked = await self._asking.ask(self._asking.new_prompt())
        self._world.harness.answer = go_on
        assert not asked.record.error and not asked.wrong, f"without a fault: {asked.record}"
        self._frames = max(numbers) + 1

    async def run(self, cell: Cell) -> CellResult:
        world, started_at = self._world, time.monotonic()
        trigger = Trigger(world, cell, self._frames)
        async with contextlib.AsyncExitStack() as heard:
            if cell.fault in _HEARD:
                await heard.enter_async_context(world.messages.listening(cell.step))
            world.harness.answer = trigger.answer
            asked = await self._ask_three(trigger)
        world.harness.answer = go_on
        await world.repaired()
        over_at = time.monotonic()
        why_red = _judge(cell, trigger, asked)
        why_red += await self._well_again()
        if world.unexpected_exits:
            why_red += world.unexpected_exits
            world.unexpected_exits = []
        healthy_after_s = time.monotonic() - over_at
        await self._leaks.look(cell.name)
        allowed = allowed_in(cell).codes
        return CellResult(
            fault=cell.fault.value,
            step=cell.step.value,
            green=not why_red,
            why_red=why_red,
            injected=trigger.fired.is_set() and not trigger.error,
            outcomes=[one.record.error or one.record.outcome for one in asked],
            errors=[one.record.error for one in asked if one.record.error],
            allowed_errors=sum(one.record.error in allowed for one in asked if one.record.error),
            wrong_tokens=sum(one.wrong or one.wrong_so_far for one in asked),
            hangs=sum(one.hung for one in asked),
            worst_s=round(max(one.took_s for one in asked), 3),
            healthy_after_s=round(healthy_after_s, 3),
            duration_s=round(time.monotonic() - started_at, 3),
        )

    async def _ask_three(self, trigger: Trigger) -> list[Asked]:
        asking = self._asking
        before = asyncio.create_task(asking.ask(asking.new_prompt()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REACH_S):
                await trigger.placed.wait()
        trigger.arm()
        hit = asyncio.create_task(asking.ask(asking.new_prompt()))
        fired = asyncio.create_task(trigger.fired.wait())
        await asyncio.wait([hit, fired], return_when=asyncio.FIRST_COMPLETED, timeout=REACH_S)
        fired.cancel()
        await asyncio.sleep(BESIDE_AFTER_S)
        after = asyncio.create_task(asking.ask(asking.new_prompt()))
        return list(await asyncio.gather(before, hit, after))

    async def _well_again(self) -> list[str]:
        """Returns what is still wrong after the bound: a service, or offloading."""
        until_at = time.monotonic() + HEALTH_BOUND_S
        try:
            await self._world.healthy(HEALTH_BOUND_S)
        except NotHealthyError as error:
            return [str(error)]
        while True:
            asked = await self._asking.ask(self._asking.new_prompt(), output_tokens=2)
            if asked.wrong or asked.record.error:
                return [f"a request after it ended with {asked.record.error or 'wrong tokens'}: {asked.record.message}"]
            if asked.record.outcome == Outcome.OFFLOADED:
                break
            if time.monotonic() > until_at:
                return [f"nothing is offloaded after {HEALTH_BOUND_S:g} s: {asked.record.outcome}"]
            await asyncio.sleep(0.1)
        try:
            await self._world.healthy(5.0)
        except NotHealthyError as error:
            return [str(error)]
        return []


def _judge(cell: Cell, trigger: Trigger, asked: list[Asked]) -> list[str]:
    allowed = allowed_in(cell).codes
    found = []
    if not trigger.fired.is_set():
        found.append("the step was never reached")
    if trigger.error:
        found.append(trigger.error)
    for which, one in zip(("before", "hit", "after"), asked, strict=True):
        if one.wrong or one.wrong_so_far:
            found.append(f"the request {which} has wrong tokens: {one.record.text!r}, expected {one.right!r}")
        elif one.record.error and one.record.error not in allowed:
            found.append(f"the request {which} ended with {one.record.error}: {one.record.message[:200]}")
    return found
