"""Several answers of one request, generated at once: one placement each, whose events come as one sequence."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, NamedTuple, Self

from prfaas.contracts.to_gateway import Finished, Started, Tokens
from prfaas_gateway.generation import Generation
from prfaas_gateway.job import Job

_EVENTS: Final = 16
"""Events of all choices that may wait here; beyond them each choice's own queue fills, which has its bound too."""


class ChoiceEvent(NamedTuple):
    choice: int
    generation: Generation
    event: Started | Tokens | Finished | None
    """None: a decode worker has accepted the choice."""


class SeveralGenerations:
    """The choices of one request. The first one of each prompt goes ahead: when the others are placed, its prefill is cached.

    As a context it ends all that runs when it is left. One choice's error is that of the request."""

    def __init__(
        self, run: Callable[[Job], AbstractAsyncContextManager[Generation]], jobs: Sequence[Job], per_prompt: int
    ) -> None:
        self._run = run
        self._jobs = jobs
        self._per_prompt = per_prompt
        self._prefilled = [asyncio.Event() for _ in range(0, len(jobs), per_prompt)]
        self._events: asyncio.Queue[ChoiceEvent | Exception] = asyncio.Queue(_EVENTS)
        self._tasks: list[asyncio.Task[None]] = []
        self._unfinished = len(jobs)
        self._failed: Exception | None = None
        """Error of a choice that has ended the others."""

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._follow(index, job)) for index, job in enumerate(self._jobs)]
        return self

    async def __aexit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> None:
        why = f"another choice of the request has failed: {error}" if error is not None and error is self._failed else None
        for task in self._tasks:
            task.cancel(why)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChoiceEvent:
        """Raises what a choice's Generation raises."""
        if not self._unfinished:
            raise StopAsyncIteration
        # No deadline of its own: each generation keeps one for every event, and its error comes here.
        event = await self._events.get()
        if isinstance(event, Exception):
            self._failed = event
            raise event
        self._unfinished -= isinstance(event.event, Finished)
        return event

    async def _follow(self, index: int, job: Job) -> None:
        prompt, choice = divmod(index, self._per_prompt)
        try:
            if choice:
                await self._prefilled[prompt].wait()
            async with self._run(job) as generation:
                await self._events.put(ChoiceEvent(index, generation, None))
                async for event in generation:
                    if isinstance(event, Started):
                        self._prefilled[prompt].set()
                    await self._events.put(ChoiceEvent(index, generation, event))
        except Exception as error:
            await self._events.put(error)
