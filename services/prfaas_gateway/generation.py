"""One request's way through the site: placed by the scheduler, accepted by a decode worker, then its events, each in time."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeVar

from opentelemetry.trace import Span, SpanKind

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError, NoRespondersError, RemoteError
from prfaas.contracts import subjects
from prfaas.contracts.codes import REQUEST_FAULTS, FailureCode
from prfaas.contracts.to_decode import CancelGenerate, Generate, Sampling
from prfaas.contracts.to_gateway import Failed, Finished, GenerateAccepted, GenerateRefused, Placement, Refusal, Started, Tokens
from prfaas.contracts.to_scheduler import PlaceRequest
from prfaas.contracts.wire import BadMessageError, pack_tokens
from prfaas.kvcache.blocks import block_hashes
from prfaas.telemetry import names
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.tracing import Tracing
from prfaas_gateway.in_flight import EventOverflowError, EventQueue, InFlight, WorkerLostError
from prfaas_gateway.openai.errors import ApiError, internal, invalid, overloaded, unavailable

if TYPE_CHECKING:
    from typing_extensions import TypeForm

Reply = TypeVar("Reply")

log = get_logger(__name__)

RETRY_AFTER_S = 1.0
EVENTS_PER_REQUEST = 4096
"""That may wait while a client reads slowly."""
MAX_PLACEMENTS = 3
"""Of one request: a decode worker that begins to drain, fills up or dies between its last heartbeat and the request is not the
client's concern while another one can answer."""
DEADLINE_GRACE_S = 0.5
"""The decode worker keeps the same deadline from a little later on, and its error says more than ours."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a client asked for, in tokens."""

    request_id: str
    model: str
    tenant: str
    token_ids: list[int]
    sampling: Sampling
    ttft_deadline_s: float
    deadline: float
    """The same as a moment of the loop's clock, s."""

    @property
    def left_s(self) -> float:
        return self.deadline - asyncio.get_running_loop().time()


class Generation:
    """A request that a decode worker has accepted."""

    def __init__(self, job: Job, queue: EventQueue, idle_deadline_s: float) -> None:
        self._job = job
        self._queue = queue
        self._idle_deadline_s = idle_deadline_s
        self._has_token = False
        self.over = False
        """No event will follow."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Started | Tokens | Finished:
        """Raises ApiError when the request fails, when nothing comes in time, and when the client reads too slowly."""
        if self.over:
            raise StopAsyncIteration
        try:
            event = await self._queue.get(self._idle_deadline_s if self._has_token else self._job.left_s + DEADLINE_GRACE_S)
        except TimeoutError as error:
            if not self._has_token:
                raise too_late(self._job.ttft_deadline_s) from error
            message = f"No token came for {self._idle_deadline_s:g} s; the answer is cut off."
            raise internal(message, FailureCode.IDLE_DEADLINE) from error
        except WorkerLostError as error:
            self.over = True
            raise unavailable(f"The answer is lost: {error}.", RETRY_AFTER_S, FailureCode.DECODE_WORKER_LOST) from error
        except EventOverflowError as error:
            raise internal(f"The answer is cut off: {error}.", FailureCode.CLIENT_TOO_SLOW) from error
        self.over = isinstance(event, Finished | Failed)
        if isinstance(event, Failed):
            raise failure(event)
        self._has_token = self._has_token or isinstance(event, Tokens)
        return event


class Generations:
    def __init__(
        self,
        bus: ControlBus,
        *,
        site: str,
        gateway: str,
        tracing: Tracing,
        control_deadline_s: float,
        idle_deadline_s: float,
        block_tokens: int,
    ) -> None:
        self._bus = bus
        self._block_tokens = block_tokens
        self._site = site
        self._gateway = gateway
        self._tracing = tracing
        self._control_deadline_s = control_deadline_s
        self._idle_deadline_s = idle_deadline_s
        self.in_flight = InFlight(EVENTS_PER_REQUEST)

    @asynccontextmanager
    async def run(self, job: Job, root: Span) -> AsyncIterator[Generation]:
        """Left early, for whatever reason, it tells the decode worker to stop. Raises ApiError."""
        with self.in_flight.open(job.request_id) as queue:
            placement = await self._place(job, root, refused_by=())
            generation = Generation(job, queue, self._idle_deadline_s)
            why = "the gateway gave up"
            refused_by: list[str] = []
            try:
                while refusal := await self._hand_over(job, placement, root, queue):
                    generation.over = True  # nobody works on it
                    refused_by.append(placement.decode_worker)
                    if refusal.code in REQUEST_FAULTS or len(refused_by) == MAX_PLACEMENTS:
                        raise refused(refusal.code, refusal.message, refusal.retry_after_s)
                    log.info("placed_again", request_id=job.request_id, refused_by=refused_by, code=refusal.code)
                    placement = await self._place(job, root, refused_by)
                    generation.over = False
                yield generation
            except asyncio.CancelledError:
                why = "the client left"
                raise
            except Exception as error:
                why = str(error)
                raise
            finally:
                if not generation.over:
                    await self._cancel(job.request_id, placement.decode_worker, why)

    async def _place(self, job: Job, root: Span, refused_by: Sequence[str]) -> Placement:
        span = self._tracing.start(names.PLACE, parent=root, kind=SpanKind.CLIENT)
        try:
            request = PlaceRequest(
                request_id=job.request_id,
                model=job.model,
                prompt_tokens=len(job.token_ids),
                max_tokens=job.sampling.max_tokens,
                ttft_deadline_s=job.left_s,
                refused_by=tuple(refused_by),
                block_hashes=bytes(block_hashes(job.token_ids, self._block_tokens)),
                block_tokens=self._block_tokens,
            )
            try:
                answer = await self._ask(job, subjects.place(self._site), request, Placement | Refusal, span, "scheduler")
            except NoRespondersError as error:
                raise no_answer(f"The scheduler of site {self._site}") from error
            if isinstance(answer, Refusal):
                raise refused(answer.code, answer.message, answer.retry_after_s)
            span.set_attributes({
                names.PREFILL_SITE: answer.prefill_site, names.WORKER: answer.decode_worker, names.OUTCOME: answer.outcome,
                names.ROUTE_REASON: answer.reason,
            })  # fmt: skip
            return answer
        finally:
            span.end()

    async def _ask(
        self, job: Job, subject: str, message: object, reply_type: "TypeForm[Reply]", parent: Span, whom: str
    ) -> Reply:
        """Raises ApiError when no usable reply comes in time, NoRespondersError when nobody heard it."""
        if job.left_s <= 0:
            raise too_late(job.ttft_deadline_s)
        timeout_s = min(job.left_s, self._control_deadline_s)
        try:
            return await self._bus.request(subject, message, reply_type, timeout_s, parent=parent)
        except NoRespondersError:
            raise
        except RemoteError as error:
            log.warning("asked_in_vain", whom=whom, subject=subject, code=error.code, error=str(error))
            raise refused(error.code, f"the {whom} says: {error.message}", RETRY_AFTER_S) from error
        except (BusError, BadMessageError) as error:
            if job.left_s <= 0:
                raise too_late(job.ttft_deadline_s) from error
            log.warning("asked_in_vain", whom=whom, subject=subject, error=str(error))
            raise no_answer(f"The {whom} of site {self._site}") from error

    async def _hand_over(self, job: Job, placement: Placement, root: Span, queue: EventQueue) -> GenerateRefused | None:
        """None once the worker has accepted. A worker that is not there counts as one that refuses; one that does not answer may
        have begun, so nobody else may."""
        request = Generate(
            request_id=job.request_id,
            model=job.model,
            placement=placement,
            token_ids=pack_tokens(job.token_ids),
            sampling=job.sampling,
            reply_to=subjects.events(self._site, self._gateway),
            tenant=job.tenant,
            ttft_deadline_s=job.left_s,
        )
        subject = subjects.generate(self._site, placement.decode_worker)
        try:
            answer = await self._ask(job, subject, request, GenerateAccepted | GenerateRefused, root, "decode worker")
        except NoRespondersError as error:
            return GenerateRefused(
                request_id=job.request_id, code=FailureCode.NO_ANSWER, message=str(error), retry_after_s=RETRY_AFTER_S
            )
        if isinstance(answer, GenerateRefused):
            return answer
        queue.worker = placement.decode_worker
        return None

    async def _cancel(self, request_id: str, worker: str, why: str) -> None:
        message = CancelGenerate(request_id=request_id, reason=why)
        try:
            await self._bus.publish(subjects.cancel_generate(self._site, worker), message)
        except BusError as error:
            # The worker frees the slot by itself when the answer is complete.
            log.warning("cancel_lost", request_id=request_id, worker=worker, error=str(error))


def too_late(ttft_deadline_s: float) -> ApiError:
    return unavailable(f"No first token within {ttft_deadline_s:g} s.", RETRY_AFTER_S, FailureCode.DEADLINE)


def no_answer(who: str) -> ApiError:
    return unavailable(f"{who} gives no answer.", RETRY_AFTER_S, FailureCode.NO_ANSWER)


def refused(code: str, message: str, retry_after_s: float) -> ApiError:
    """A scheduler's or decode worker's refusal, as the client hears it."""
    if code == FailureCode.OVERLOADED:
        return overloaded(_sentence(message), retry_after_s)
    if code in REQUEST_FAULTS:
        return invalid(_sentence(message), code=code)
    return unavailable(_sentence(message), retry_after_s, code)


def failure(failed: Failed) -> ApiError:
    if failed.retry_after_s is None:
        return internal(_sentence(failed.message), failed.code)
    return unavailable(_sentence(failed.message), failed.retry_after_s, failed.code)


def _sentence(message: str) -> str:
    return f"{message[:1].upper()}{message[1:].rstrip('.')}."
