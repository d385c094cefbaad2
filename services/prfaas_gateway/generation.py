"""The run of one request: a decode worker accepts it, then its events come, each within its time."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final, Protocol, Self

from opentelemetry.trace import Span

from prfaas.contracts.codes import FailureCode
from prfaas.contracts.terms import Detour
from prfaas.contracts.to_gateway import Failed, Finished, Placement, Started, Tokens
from prfaas.telemetry.logs import get_logger
from prfaas_gateway.decode_workers import DecodeWorker
from prfaas_gateway.in_flight import EventOverflowError, EventQueue, EventsLostError, InFlight, WorkerLostError
from prfaas_gateway.job import Job, failure, refused, too_late
from prfaas_gateway.joined_answer import JoinedAnswer
from prfaas_gateway.line import Line
from prfaas_gateway.openai.errors import events_lost, internal, unavailable
from prfaas_gateway.placing import RETRY_AFTER_S, Accepted, Placing, Refused, UnansweredError, why_given_up
from prfaas_gateway.turns import Turn
from prfaas_gateway.waiting_line import Pace

EVENTS_PER_REQUEST: Final = 4096
"""Events that may wait while a client reads slowly."""
DEADLINE_GRACE_S: Final = 0.5
"""Time beyond the deadline that the gateway waits, s. The decode worker keeps the same deadline, and its error says more."""
MAX_PLACEMENTS: Final = 3
"""Placements of one try. A decode worker may drain, fill up or die after its last heartbeat, and another one may answer."""
MAX_MOVES: Final = 3
"""Times that one request is placed again because its decode worker was lost or gave no answer."""
JUDGE_EVERY_S: Final = 0.5
"""Time between two checks whether a waiting request can still be served in time, s."""
FIRST_BACKOFF_S: Final = 0.1
MAX_BACKOFF_S: Final = 1.0

log = get_logger(__name__)


class Leg:
    """One placement of a request: a decode worker has accepted it, under an id of its own."""

    def __init__(self, job: Job, queue: EventQueue, accepted: Accepted) -> None:
        self.job = job
        self.queue = queue
        self.accepted = accepted
        self.accepted_at = asyncio.get_running_loop().time()
        self.has_token = False
        self.over = False
        """True when no event will follow."""


class OpenLeg(Protocol):
    def __call__(self, job: Job, avoid: Sequence[str]) -> AbstractAsyncContextManager[Leg]:
        """Enters once a decode worker has accepted the job, none of those to `avoid` while there is another one.

        Raises ApiError, UnansweredError."""
        ...


class Generation:
    """A request on its way through decode workers: where one is lost, another goes on with the answer."""

    def __init__(self, job: Job, open_leg: OpenLeg, idle_deadline_s: float, pace: Pace, on_move: Callable[[], None]) -> None:
        self._job = job
        self._open_leg = open_leg
        self._idle_deadline_s = idle_deadline_s
        self._pace = pace
        self._on_move = on_move
        self._answer = JoinedAnswer()
        self._closing = AsyncExitStack()
        self._leg: Leg
        self.moves = 0
        """Times that the request was placed again."""

    @property
    def over(self) -> bool:
        """True when no event will follow."""
        return self._leg.over

    @property
    def placement(self) -> Placement:
        """The placement that a decode worker has accepted, the latest one."""
        return self._leg.accepted.placement

    @property
    def started(self) -> Started | None:
        """Beginning of the latest placement that has begun: where the KV that is decoded from comes from."""
        return self._answer.started

    async def __aenter__(self) -> Self:
        await self._begin(self._job)
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._closing.__aexit__(*error)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Started | Tokens | Finished:
        """Raises ApiError when the request fails, when nothing comes in time, and when the client reads too slowly."""
        if self.over:
            raise StopAsyncIteration
        event: Started | Tokens | Finished | Failed | None = None
        while event is None:
            event = self._answer.take(await self._next())
        leg = self._leg
        leg.over = isinstance(event, Finished | Failed)
        if isinstance(event, Failed):
            raise failure(event)
        if isinstance(event, Tokens) and not leg.has_token:
            leg.has_token = True
            self._pace.first_token_came(asyncio.get_running_loop().time() - leg.accepted_at)
        return event

    async def _next(self) -> Started | Tokens | Finished | Failed:
        while True:
            leg = self._leg
            try:
                return await leg.queue.get(self._idle_deadline_s if leg.has_token else leg.job.left_s + DEADLINE_GRACE_S)
            except TimeoutError as error:
                if not self._answer.token_ids:
                    raise too_late(self._job.ttft_deadline_s) from error
                message = f"No token came for {self._idle_deadline_s:g} s; the answer is cut off."
                raise unavailable(message, RETRY_AFTER_S, FailureCode.IDLE_DEADLINE) from error
            except WorkerLostError as error:
                if self.moves >= MAX_MOVES:
                    raise unavailable(f"The answer is lost: {error}.", RETRY_AFTER_S, FailureCode.DECODE_WORKER_LOST) from error
                await self._move(leg, str(error), Detour.MOVED)
            except EventOverflowError as error:
                raise internal(f"The answer is cut off: {error}.", FailureCode.CLIENT_TOO_SLOW) from error
            except EventsLostError as error:
                if self.moves >= MAX_MOVES:
                    raise events_lost(error) from error
                await self._move(leg, str(error), Detour.ANSWER_GAP)

    async def _move(self, leg: Leg, why: str, detour: Detour) -> None:
        """Leaves the decode worker and has another one accept the request. Raises ApiError."""
        name = leg.accepted.worker.name
        self._count_move(leg.job, name, why, detour)
        await self._closing.aclose()
        self._answer.place_again()
        # A scheduler misses a lost worker later than a gateway that has asked it.
        await self._begin(self._placed_again(), (name,) if detour is Detour.MOVED else ())

    async def _begin(self, job: Job, avoid: tuple[str, ...] = ()) -> None:
        """Raises ApiError."""
        while True:
            try:
                self._leg = await self._closing.enter_async_context(self._open_leg(job, avoid))
                return
            except UnansweredError as error:
                # It may have begun. What it says under the old id is heard by no one.
                if self.moves >= MAX_MOVES or job.left_s <= 0:
                    raise error.error from error
                self._count_move(job, error.worker, str(error), Detour.UNANSWERED)
                job, avoid = self._placed_again(job.deadline_at), (error.worker,)

    def _count_move(self, job: Job, worker: str, why: str, detour: Detour) -> None:
        self.moves += 1
        job.detours[detour] += 1
        self._on_move()
        sent = len(self._answer.token_ids)
        log.warning("request_moved", request_id=job.request_id, worker=worker, sent_tokens=sent, move=self.moves, reason=why)

    def _placed_again(self, deadline_at: float | None = None) -> Job:
        """Returns the job that goes on with the answer. An id of its own keeps late events of the one before apart.

        Before the first token the client's deadline holds, after it the one between two tokens."""
        sent, timeout_s = tuple(self._answer.token_ids), self._job.ttft_deadline_s
        if not sent:
            deadline_at = self._job.deadline_at
        elif deadline_at is None:
            timeout_s, deadline_at = self._idle_deadline_s, asyncio.get_running_loop().time() + self._idle_deadline_s
        return replace(
            self._job,
            request_id=f"{self._job.request_id}-{self.moves}",
            sent_token_ids=sent,
            ttft_deadline_s=timeout_s,
            deadline_at=deadline_at,
        )


class Generations:
    """All requests of the gateway that wait for a place or run."""

    def __init__(
        self,
        placing: Placing,
        idle_deadline_s: float,
        on_acceptance: Callable[[DecodeWorker], None],
        on_move: Callable[[], None],
    ) -> None:
        self._placing = placing
        self._idle_deadline_s = idle_deadline_s
        self._on_acceptance = on_acceptance
        self._on_move = on_move
        self._lines: dict[str, Line] = {}
        self.in_flight = InFlight(EVENTS_PER_REQUEST)
        self.waiting = 0
        """Requests that wait for a place."""

    @asynccontextmanager
    async def run(self, job: Job, root: Span) -> AsyncIterator[Generation]:
        """Yields the generation once a decode worker has accepted the request. Tells the worker to stop when it is left early.

        Raises ApiError."""
        line = self._lines.setdefault(job.model, Line())
        open_leg = partial(self._leg, root, line)
        async with Generation(job, open_leg, self._idle_deadline_s, line.pace, self._on_move) as generation:
            yield generation

    @asynccontextmanager
    async def _leg(self, root: Span, line: Line, job: Job, avoid: Sequence[str]) -> AsyncIterator[Leg]:
        with self.in_flight.open(job.request_id) as queue:
            try:
                accepted = await self._accepted(job, root, line, avoid)
            except BaseException:
                self._placing.home.end(job.request_id)
                raise
            queue.worker = accepted.worker
            self._on_acceptance(accepted.worker)
            leg = Leg(job, queue, accepted)
            why = "the request was placed again"
            try:
                yield leg
            except BaseException as error:
                why = why_given_up(error)
                raise
            finally:
                self._placing.home.end(job.request_id)
                line.place_freed(asyncio.get_running_loop().time())
                if not leg.over:
                    await self._placing.cancel(job.request_id, accepted.worker.name, why)

    async def _accepted(self, job: Job, root: Span, line: Line, avoid: Sequence[str]) -> Accepted:
        """Waits until a decode worker accepts. Raises ApiError at once when waiting cannot help or would take too long.

        Raises UnansweredError."""
        last: Refused | None = None
        if line.empty:
            answer = await self._placing.try_once(job, root, MAX_PLACEMENTS, partial(self.in_flight.ask, job.request_id), avoid)
            if not isinstance(answer, Refused):
                return answer
            last = answer
        if last is None or not last.unheard:
            job.detours[Detour.WAITED_FOR_PLACE] += 1
        if line.empty:
            line.pace.begin(asyncio.get_running_loop().time())
        self.waiting += 1
        try:
            with line.turns.joined(job.tenant) as turn:
                return await self._wait_for_place(job, root, line, turn, last, avoid)
        finally:
            self.waiting -= 1

    async def _wait_for_place(
        self, job: Job, root: Span, line: Line, turn: Turn, last: Refused | None, avoid: Sequence[str]
    ) -> Accepted:
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
            answer = await self._placing.try_once(job, root, MAX_PLACEMENTS, partial(self.in_flight.ask, job.request_id), avoid)
            if not isinstance(answer, Refused):
                return answer
            if answer.unheard:  # while none decides no place becomes free, however many there are
                line.pace.begin(asyncio.get_running_loop().time())
            if last is None or job.left_s > 0:  # a try that the deadline cut short says less than the one before
                last = answer
            backoff_s = min(MAX_BACKOFF_S, max(FIRST_BACKOFF_S, backoff_s * 1.6, last.not_before_s))

    def _judge(self, job: Job, line: Line, turn: Turn, last: Refused | None) -> None:
        """Raises ApiError when the request cannot be served within its deadline any more."""
        left_s = job.left_s
        if last is not None and last.not_before_s >= left_s:
            raise last.error
        if left_s <= 0:
            raise last.error if last is not None else too_late(job.ttft_deadline_s)
        if last is not None and last.unheard:
            return  # without a scheduler no place becomes free: the pace says nothing
        ahead = line.turns.ahead(turn)
        after_s = line.pace.first_token_after_s(ahead, asyncio.get_running_loop().time())
        if after_s is not None and after_s > left_s:
            message = (
                f"All decode workers of model {job.model!r} are full and {ahead} requests wait before this one: its first token "
                f"would come in about {after_s:.0f} s, and its deadline is in {left_s:.1f} s."
            )
            raise refused(FailureCode.OVERLOADED, message, after_s)
