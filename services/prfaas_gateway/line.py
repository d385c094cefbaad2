"""The line of one model: its waiting requests, and the places that become free for them."""

import asyncio
from collections import deque
from typing import Final

from prfaas_gateway.turns import Turns
from prfaas_gateway.waiting_line import Pace

TRYING_AT_ONCE: Final = 2
"""Waiting requests of a model that ask for a place at one time; the others wait for their turn."""


class Line:
    """The waiting requests of one model."""

    def __init__(self) -> None:
        self.turns = Turns(TRYING_AT_ONCE)
        self.pace = Pace()
        self._sleeping: deque[asyncio.Future[None]] = deque()
        self._missed = False
        """A place became free while none slept: one of those that were trying may not have seen it."""

    @property
    def empty(self) -> bool:
        return self.turns.core.idle

    def place_freed(self, now_s: float) -> None:
        """Wakes one request: one place is for one."""
        self.pace.place_freed(now_s)
        if self._sleeping:
            self._sleeping.popleft().set_result(None)
        else:
            self._missed = True

    async def sleep(self, at_most_s: float) -> None:
        """Returns when a place has become free, or after the time."""
        if self._missed:
            self._missed = False
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleeping.append(woken)
        try:
            await asyncio.wait([woken], timeout=max(0.0, at_most_s))
        finally:
            if not woken.done():
                self._sleeping.remove(woken)
