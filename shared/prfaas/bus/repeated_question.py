"""One question that is asked of one process again and again; its answers count whenever they come."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from prfaas.bus.errors import BusTimeoutError, NoRespondersError
from prfaas.bus.patience import MOST_S, Patience

Answer = TypeVar("Answer")


class RepeatedQuestion(Generic[Answer]):
    def __init__(self, ask: Callable[[float], Awaitable[Answer]], patience: Patience) -> None:
        """`ask` sends the question once, with the time to wait for its answer in s. `patience` hears how long answers took."""
        self._ask = ask
        self._patience = patience
        self._open: set[asyncio.Task[Answer]] = set()

    async def again(self, wait_s: float) -> Answer | None:
        """Asks once more. Returns the first answer to any question so far, or None when none comes within `wait_s`.

        Raises NoRespondersError when there is no such process, and what else `ask` raised but BusTimeoutError: that is of this
        process's own connection."""
        self._open.add(asyncio.create_task(self._timed()))
        # A question that has its own time behind it ended as a timeout: it is no answer, and the others go on.
        until_at = time.monotonic() + wait_s
        while (left_s := until_at - time.monotonic()) > 0 and self._open:
            ended, self._open = await asyncio.wait(self._open, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            errors = [error for question in ended if (error := question.exception()) is not None]
            for error in sorted(errors, key=lambda each: not isinstance(each, NoRespondersError)):
                if not isinstance(error, BusTimeoutError):
                    raise error
            for question in ended:
                if question.exception() is None:
                    return question.result()
        return None

    def end(self) -> None:
        """Waits for no answer any more."""
        while self._open:
            self._open.pop().cancel()

    async def _timed(self) -> Answer:
        asked_at = time.monotonic()
        answer = await self._ask(MOST_S)
        self._patience.handle_answer(time.monotonic() - asked_at)
        return answer
