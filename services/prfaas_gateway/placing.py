"""One try to have a request placed by the scheduler and accepted by a decode worker."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from msgspec.structs import replace
from opentelemetry.trace import Span, SpanKind

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError, NoRespondersError, RemoteError
from prfaas.contracts import subjects
from prfaas.contracts.codes import FINAL_REFUSALS, FailureCode
from prfaas.contracts.terms import Detour
from prfaas.contracts.to_decode import CancelGenerate, Generate, sampling_level
from prfaas.contracts.to_gateway import GenerateAccepted, GenerateRefused, Placement, Refusal
from prfaas.contracts.to_scheduler import PlaceRequest
from prfaas.contracts.wire import BadMessageError, pack_tokens
from prfaas.kvcache.blocks import block_hashes
from prfaas.telemetry import names
from prfaas.telemetry.fault_points import FaultPoint, reach
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.tracing import Tracing
from prfaas_gateway.decode_workers import DecodeWorker
from prfaas_gateway.home_placement import HomePlacement
from prfaas_gateway.job import Job, refused, too_late
from prfaas_gateway.openai.errors import ApiError, unavailable
from prfaas_gateway.scheduler_contact import SchedulerContact

if TYPE_CHECKING:
    from typing_extensions import TypeForm

Reply = TypeVar("Reply")

RETRY_AFTER_S: Final = 1.0
PATIENCE_WITH_OTHERS_S: Final = 2.0
"""Time for a decode worker to say whether it has begun, where another one could begin instead."""
_PASSING_ERRORS: Final = frozenset({FailureCode.OVERLOADED, FailureCode.CANCELLED, FailureCode.NOT_LEADING})
"""Error codes of a handler that say nothing about the request."""

log = get_logger(__name__)


class Refused(NamedTuple):
    """End of a try that may succeed later."""

    error: ApiError
    not_before_s: float = 0.0
    """Time for which another try is useless, s, as the refusal says."""
    unheard: bool = False
    """True when nothing that could decide has heard the question, or said so: it is no refusal, and says nothing of the load."""


class Accepted(NamedTuple):
    """A placement that a decode worker has taken."""

    placement: Placement
    worker: DecodeWorker


class UnansweredError(Exception):
    """A decode worker was handed the request and does not say whether it has begun. Under another id it may begin elsewhere."""

    def __init__(self, worker: str, error: ApiError) -> None:
        super().__init__(str(error))
        self.worker = worker
        self.error = error


@dataclass(frozen=True, kw_only=True)
class Placing:
    bus: ControlBus
    site: str
    gateway: str
    incarnation: str
    """Identity of the gateway's process."""
    tracing: Tracing
    control_deadline_s: float
    block_tokens: int
    hash_key: bytes
    scheduler: SchedulerContact
    home: HomePlacement
    has_other: Callable[[str], bool]
    """Tells whether there is another decode worker than the named one."""

    async def try_once(
        self, job: Job, root: Span, max_placements: int, asking: Callable[[str], None], avoid: Sequence[str] = ()
    ) -> Accepted | Refused:
        """Returns what a decode worker has accepted, none of those to `avoid` while there is another one. Tells `asking` of each
        before it is asked: its events may come before its answer does.

        Raises ApiError for what no other try would change, and UnansweredError."""
        refused_by = [worker for worker in avoid if self.has_other(worker)]
        while True:
            placement = await self._place(job, root, refused_by)
            if isinstance(placement, Refused):
                return placement
            asking(placement.decode_worker)
            reach(FaultPoint.PLACED, job.request_id)
            try:
                answer = await self._hand_over(job, placement, root)
            except BaseException as error:
                # It may have begun.
                await self.cancel(job.request_id, placement.decode_worker, why_given_up(error))
                raise
            if isinstance(answer, GenerateAccepted):
                return Accepted(placement, DecodeWorker(placement.decode_worker, answer.incarnation))
            refused_by.append(placement.decode_worker)
            job.detours[Detour.REFUSED] += 1
            if answer.code in FINAL_REFUSALS:
                raise refused(answer.code, answer.message, answer.retry_after_s)
            if len(refused_by) >= max_placements:
                return Refused(refused(answer.code, answer.message, answer.retry_after_s))
            log.info("placed_again", request_id=job.request_id, refused_by=refused_by, code=answer.code)

    async def cancel(self, request_id: str, worker: str, why: str) -> None:
        message = CancelGenerate(request_id=request_id, reason=why)
        try:
            await self.bus.publish(subjects.cancel_generate(self.site, worker), message)
        except BusError as error:
            # The worker frees the slot by itself when the answer is complete.
            log.warning("cancel_lost", request_id=request_id, worker=worker, error=str(error))

    async def _place(self, job: Job, root: Span, refused_by: Sequence[str]) -> Placement | Refused:
        """Returns the scheduler's placement, or one of the gateway's own while no scheduler answers.

        Raises ApiError."""
        span = self.tracing.start(names.PLACE, parent=root, kind=SpanKind.CLIENT)
        try:
            answer: Placement | Refused = self._place_at_home(job, refused_by) or await self._ask_scheduler(job, span, refused_by)
            if isinstance(answer, Placement):
                span.set_attributes({
                    names.PREFILL_SITE: answer.prefill_site, names.WORKER: answer.decode_worker, names.OUTCOME: answer.outcome,
                    names.ROUTE_REASON: answer.reason,
                })  # fmt: skip
            return answer
        finally:
            span.end()

    def _place_at_home(self, job: Job, refused_by: Sequence[str]) -> Placement | None:
        now_s = _now_s()
        placement = self.home.place(job, self.scheduler.silent_s(now_s), refused_by, now_s)
        if placement is not None:
            job.detours[Detour.PLACED_BY_GATEWAY] += 1
        return placement

    async def _ask_scheduler(self, job: Job, span: Span, refused_by: Sequence[str]) -> Placement | Refused:
        request = PlaceRequest(
            request_id=job.request_id,
            model=job.model,
            prompt_tokens=len(job.token_ids),
            max_tokens=job.sampling.max_tokens,
            ttft_deadline_s=max(0.0, job.left_s),
            refused_by=tuple(refused_by),
            block_hashes=bytes(block_hashes(job.token_ids, self.block_tokens, self.hash_key, job.cache_scope)),
            block_tokens=self.block_tokens,
        )
        whom = f"The scheduler of site {self.site}"
        subject = subjects.place(self.site)
        asked_at = _now_s()
        try:
            patience_s = self.scheduler.patience_s(self.control_deadline_s)
            answer = await self._ask(job, subject, request, Placement | Refusal, span, whom, patience_s)
        except NoRespondersError:
            self.scheduler.handle_absence(asked_at)
            answer = Refused(_no_answer(whom), unheard=True)
        else:
            self._heard(answer, asked_at)
        if isinstance(answer, Placement) and not self.scheduler.takes(answer.term, _now_s()):
            log.warning("placement_outdated", request_id=job.request_id, term=answer.term)
            answer = Refused(_no_answer(whom), unheard=True)
        if isinstance(answer, Refused):
            if answer.unheard:
                job.detours[Detour.WAITED_FOR_SCHEDULER] += 1
                return self._place_at_home(job, refused_by) or answer
            return answer
        if isinstance(answer, Refusal):
            error = refused(answer.code, answer.message, answer.retry_after_s)
            if answer.code in FINAL_REFUSALS:
                raise error
            return Refused(error, answer.retry_after_s)
        return answer

    def _heard(self, answer: Placement | Refusal | Refused, asked_at: float) -> None:
        if not isinstance(answer, Refused) or not answer.unheard:
            self.scheduler.handle_answer()
        elif answer.error.body.code == FailureCode.NOT_LEADING:
            self.scheduler.handle_absence(asked_at)
        else:
            self.scheduler.handle_silence(asked_at)

    async def _hand_over(self, job: Job, placement: Placement, root: Span) -> GenerateAccepted | GenerateRefused:
        """Returns the worker's answer. A worker that is not there counts as one that refuses.

        Raises ApiError, and UnansweredError."""
        job.asked.append(placement.decode_worker)
        if len(job.asked) > 1:
            # Who has refused may share its name with a process that has begun: a job of the same name would be taken for its own.
            placement = replace(placement, transfer_id=f"{placement.transfer_id}-p{len(job.asked)}")
        request = Generate(
            request_id=job.request_id,
            model=job.model,
            placement=placement,
            token_ids=pack_tokens(job.token_ids),
            sent_token_ids=pack_tokens(job.sent_token_ids),
            sampling=job.sampling,
            reply_to=subjects.events(self.site, self.gateway),
            gateway=self.gateway,
            gateway_incarnation=self.incarnation,
            tenant=job.tenant,
            cache_scope=job.cache_scope,
            ttft_deadline_s=job.left_s,
        )
        subject = subjects.generate(self.site, placement.decode_worker)
        whom = f"The decode worker of site {self.site}"
        patience_s = self.control_deadline_s
        if self.has_other(placement.decode_worker):
            patience_s = min(patience_s, PATIENCE_WITH_OTHERS_S)
        try:
            answer = await self._ask(job, subject, request, GenerateAccepted | GenerateRefused, root, whom, patience_s)
        except NoRespondersError as error:
            return GenerateRefused(
                request_id=job.request_id, code=FailureCode.NO_ANSWER, message=str(error), retry_after_s=RETRY_AFTER_S
            )
        if isinstance(answer, Refused):
            raise UnansweredError(placement.decode_worker, answer.error)
        if isinstance(answer, GenerateAccepted) and answer.sampling_level < sampling_level(job.sampling):
            why = f"decode worker {placement.decode_worker!r} is of a version that cannot sample as this request asks"
            await self.cancel(job.request_id, placement.decode_worker, why)
            return GenerateRefused(
                request_id=job.request_id, code=FailureCode.NO_ANSWER, message=why, retry_after_s=RETRY_AFTER_S
            )
        return answer

    async def _ask(
        self,
        job: Job,
        subject: str,
        message: object,
        reply_type: "TypeForm[Reply]",
        parent: Span,
        whom: str,
        patience_s: float,
    ) -> Reply | Refused:
        """Returns Refused when no usable reply comes in time. Raises ApiError, and NoRespondersError when it was not heard."""
        if job.left_s <= 0:
            raise too_late(job.ttft_deadline_s)
        timeout_s = min(job.left_s, patience_s)
        try:
            return await self.bus.request(subject, message, reply_type, timeout_s, parent=parent)
        except NoRespondersError:
            raise
        except RemoteError as error:
            log.warning("asked_in_vain", whom=whom, subject=subject, code=error.code, error=str(error))
            refusal = refused(error.code, f"{whom} says: {error.message}", RETRY_AFTER_S)
            if error.code not in _PASSING_ERRORS:
                raise refusal from error
            return Refused(refusal, unheard=error.code == FailureCode.NOT_LEADING)
        except (BusError, BadMessageError) as error:
            log.warning("asked_in_vain", whom=whom, subject=subject, error=str(error))
            return Refused(_no_answer(whom), unheard=True)


def why_given_up(error: BaseException) -> str:
    """Returns the reason of a cancellation for the error that ended the request. A task that was cancelled may say why itself."""
    return str(error) if isinstance(error, Exception) or error.args else "the client left"


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _no_answer(whom: str) -> ApiError:
    return unavailable(f"{whom} gives no answer.", RETRY_AFTER_S, FailureCode.NO_ANSWER)
