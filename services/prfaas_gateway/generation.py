"""The run of one request: a decode worker accepts it, then its events come, each within its time."""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, Self

from opentelemetry.trace import Span

from prfaas.contracts.codes import FailureCode
from prfaas.contracts.to_gateway import Failed, Finished, Placement, Started, Tokens
from prfaas_gateway.in_flight import EventOverflowError, EventQueue, EventUnreadableError, InFlight, WorkerLostError
from prfaas_gateway.job import Job, failure, refused, too_late
from prfaas_gateway.openai.errors import events_lost, internal, unavailable
from prfaas_gateway.placing import RETRY_AFTER_S, Placing, Refused, why_given_up
from prfaas_gateway.turns import Turn, Turns
from prfaas_gateway.waiting_line import Pace

EVENTS_PER_REQUEST: Final = 4096
"""Events that may wait while a client reads slowly."""
DEADLINE_GRACE_S: Final = 0.5
"""Time beyond the deadline that the gateway waits, s. The decode worker keeps the same deadline, and its error says more."""
MAX_PLACEMENTS: Final = 3
"""Placements of one try. A decode worker may drain, fill up or die after its last heartbeat, and another one may answer."""
TRYING_AT_ONCE: Final = 2
"""Waiting requests of a model that ask for a place at one time. The others wait for their turn."""
JUDGE_EVERY_S: Final = 0.5
"""Time between two checks whether a waiting request can still be served in time, s."""
FIRST_BACKOFF_S: Final = 0.1
MAX_BACKOFF_S: Final = 1.0


class Generation:
    """A request that a decode worker has accepted."""

    def __init__(self, job: Job, queue: EventQueue, idle_deadline_s: float, pace: Pace) -> None:
        self._job = job
        self._queue = queue
        self._idle_deadline_s = idle_deadline_s
        self._pace = pace
        self._accepted_at = asyncio.get_running_loop().time()
        self._has_token = False
        self.over = False
        """True when no event will follow."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Started | Tokens | Finished:
        """Raises ApiError when the request fails, when nothing comes in time, and when the client reads too slowly."""
        if self.over:
            raise StopAsyncIteration
        event = await self._next()
        self.over = isinstance(event, Finished | Failed)
        if isinstance(event, Failed):
            raise failure(event)
        if isinstance(event, Tokens) and not self._has_token:
            self._has_token = True
            self._pace.first_token_came(asyncio.get_running_loop().time() - self._accepted_at)
        return event

    async def _next(self) -> Started | Tokens | Finished | Failed:
        try:
            return await self._queue.get(self._idle_deadline_s if self._has_token else self._job.left_s + DEADLINE_GRACE_S)
        except TimeoutError as error:
            if not self._has_token:
                raise too_late(self._job.ttft_deadline_s) from error
            message = f"No token came for {self._idle_deadline_s:g} s; the answer is cut off."
            raise unavailable(message, RETRY_AFTER_S, FailureCode.IDLE_DEADLINE) from error
        except WorkerLostError as error:
            self.over = True
            raise unavailable(f"The answer is lost: {error}.", RETRY_AFTER_S, FailureCode.DECODE_WORKER_LOST) from error
        except EventOverflowError as error:
            raise internal(f"The answer is cut off: {error}.", FailureCode.CLIENT_TOO_SLOW) from error
        except EventUnreadableError as error:
            raise events_lost(error) from error


class _Line:
    """The waiting requests of one model."""

    def __init__(self) -> None:
        self.turns = Turns(TRYING_AT_ONCE)
        self.pace = Pace()
        self._sleeping: deque[asyncio.Future[None]] = deque()
        self._missed = False
        """True when a place became free while no request slept. One that was trying then may not have seen it."""

    @property
    def empty(self) -> bool:
        return self.turns.core.idle

    def place_freed(self, now_s: float) -> None:
        """Wakes one request, since the place is for one."""
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


class Generations:
    """All requests of the gateway that wait for a place or run."""

    def __init__(self, placing: Placing, idle_deadline_s: float) -> None:
        self._placing = placing
        self._idle_deadline_s = idle_deadline_s
        self._lines: dict[str, _Line] = {}
        self.in_flight = InFlight(EVENTS_PER_REQUEST)
        self.waiting = 0
        """Requests that wait for a place."""

    @asynccontextmanager
    async def run(self, job: Job, root: Span) -> AsyncIterator[Generation]:
        """Yields the generation once a decode worker has accepted the request. Tells the worker to stop when it is left early.

        Raises ApiError."""
        line = self._lines.setdefault(job.model, _Line())
        with self.in_flight.open(job.request_id) as queue:
            placement = await self._accepted(job, root, line)
            queue.worker = placement.decode_worker
            generation = Generation(job, queue, self._idle_deadline_s, line.pace)
            why = ""
            try:
                yield generation
            except BaseException as error:
                why = why_given_up(error)
                raise
            finally:
                line.place_freed(asyncio.get_running_loop().time())
                if not generation.over:
                    await self._placing.cancel(job.request_id, placement.decode_worker, why)

    async def _accepted(self, job: Job, root: Span, line: _Line) -> Placement:
        """Waits until a decode worker accepts. Raises ApiError at once when waiting cannot help or would take too long."""
        last: Refused | None = None
        if line.empty:
            placement = await self._placing.try_once(job, root, MAX_PLACEMENTS, partial(self.in_flight.ask, job.request_id))
            if not isinstance(placement, Refused):
                return placement
            last = placement
        if line.empty:
            line.pace.begin(asyncio.get_running_loop().time())
        self.waiting += 1
        try:
            with line.turns.joined(job.tenant) as turn:
                return await self._wait_for_place(job, root, line, turn, last)
        finally:
            self.waiting -= 1

    async def _wait_for_place(self, job: Job, root: Span, line: _Line, turn: Turn, last: Refused | None) -> Placement:
        while not turn.granted.is_set():
            self._judge(job, line, turn, last)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(JUDGE_EVERY_S, job.left_s))):
                    await turn.granted.wait()
        backoff_s = FIRST_BACKOFF_S if last else 0.0
        while True:
            self._judge(job, line, turn, last)
            # Jitter: several gateways must not ask in step.
            await line.sleep(min(backoff_s * random.uniform(0.5, 1.0), job.left_s))
            self._judge(job, line, turn, last)
            placement = await self._placing.try_once(job, root, MAX_PLACEMENTS, partial(self.in_flight.ask, job.request_id))
            if not isinstance(placement, Refused):
                return placement
            if last is None or job.left_s > 0:  # a try that the deadline cut short says less than the one before
                last = placement
            backoff_s = min(MAX_BACKOFF_S, max(FIRST_BACKOFF_S, backoff_s * 1.6, last.not_before_s))

    def _judge(self, job: Job, line: _Line, turn: Turn, last: Refused | None) -> None:
        """Raises ApiError when the request cannot be served within its deadline any more."""
        left_s = job.left_s
        if last is not None and last.not_before_s >= left_s:
            raise last.error
        if left_s <= 0:
            raise last.error if last is not None else too_late(job.ttft_deadline_s)
        ahead = line.turns.ahead(turn)
        after_s = line.pace.first_token_after_s(ahead, asyncio.get_running_loop().time())
        if after_s is not None and after_s > left_s:
            message = (
                f"All decode workers of model {job.model!r} are full and {ahead} requests wait before this one: its first token "
                f"would come in about {after_s:.0f} s, and its deadline is in {left_s:.1f} s."
            )
            raise refused(FailureCode.OVERLOADED, message, after_s)
