"""Random faults under traffic: each hits the first process that reaches a random step."""

import asyncio
import contextlib
import random
import time

import msgspec

from load.chaos.faults import INJECTIONS, Fault, Hit
from load.chaos.harness import GO_ON, go_on
from load.chaos.steps import Step, is_step
from load.chaos.world import World
from prfaas.telemetry.fault_points import Announcement, Order

FAULT_EVERY_S = 10.0
REACH_S = 9.0
FRAMES = 8
"""Frames that a transfer is taken to have, for its middle."""


class Injection(msgspec.Struct, kw_only=True):
    stack: str
    fault: Fault
    step: Step
    at: float = 0.0
    """Moment by time.monotonic(); 0 when no request reached the step in time, and nothing was done."""
    over_at: float = 0.0
    error: str = ""
    recovered_s: float | None = None
    """Time until the first right answer to a request that was asked after the fault."""


class RandomFaults:
    """One fault every `FAULT_EVERY_S`, each at the first process that reaches its step."""

    def __init__(self, worlds: dict[str, World], shares: dict[str, float], seed: int) -> None:
        """`shares`: shares of the faults by world."""
        self._worlds = worlds
        self._shares = shares
        self._random = random.Random(seed)
        self.injections: list[Injection] = []

    async def run(self, until_at: float) -> None:
        while (next_at := time.monotonic() + FAULT_EVERY_S) < until_at:
            labels = list(self._worlds)
            (label,) = self._random.choices(labels, [self._shares[each] for each in labels])
            injection = Injection(
                stack=label, fault=self._random.choice(list(Fault)), step=self._random.choice(list(Step))
            )  # fmt: skip
            self.injections.append(injection)
            await self._inject(self._worlds[label], injection)
            await asyncio.sleep(max(0.0, next_at - time.monotonic()))

    async def _inject(self, world: World, injection: Injection) -> None:
        if injection.fault is Fault.DISK_FULL and not world.disk.mounted:
            injection.error = "no small disk"
            return
        fired = asyncio.Event()

        async def answer(announcement: Announcement) -> Order:
            if fired.is_set() or not is_step(injection.step, announcement, FRAMES):
                return GO_ON
            fired.set()
            injection.at = time.monotonic()
            try:
                hit = Hit(world.process_of(announcement.pid), injection.step, announcement.request_id.partition("-")[0])
                return await INJECTIONS[injection.fault](world, hit)
            except Exception as error:
                injection.error = repr(error)
                return GO_ON

        async with contextlib.AsyncExitStack() as heard:
            if injection.fault in (Fault.DAMAGED, Fault.DUPLICATE):
                await heard.enter_async_context(world.messages.listening(injection.step))
            world.harness.answer = answer
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REACH_S):
                    await fired.wait()
            world.harness.answer = go_on
            await world.repaired()
        injection.over_at = time.monotonic()
