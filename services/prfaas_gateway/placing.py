"""One try to have a request placed by the scheduler and accepted by a decode worker."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from opentelemetry.trace import Span, SpanKind

from prfaas.bus.control import ControlBus
from prfaas.bus.errors import BusError, NoRespondersError, RemoteError
from prfaas.contracts import subjects
from prfaas.contracts.codes import FINAL_REFUSALS, FailureCode
from prfaas.contracts.to_decode import CancelGenerate, Generate
from prfaas.contracts.to_gateway import GenerateAccepted, GenerateRefused, Placement, Refusal
from prfaas.contracts.to_scheduler import PlaceRequest
from prfaas.contracts.wire import BadMessageError, pack_tokens
from prfaas.kvcache.blocks import block_hashes
from prfaas.telemetry import names
from prfaas.telemetry.logs import get_logger
from prfaas.telemetry.tracing import Tracing
from prfaas_gateway.decode_workers import DecodeWorker
from prfaas_gateway.job import Job, refused, too_late
from prfaas_gateway.openai.errors import ApiError, unavailable

if TYPE_CHECKING:
    from typing_extensions import TypeForm

Reply = TypeVar("Reply")

RETRY_AFTER_S: Final = 1.0
_PASSING_ERRORS: Final = frozenset({FailureCode.OVERLOADED, FailureCode.CANCELLED})
"""Error codes of a handler that say nothing about the request."""

log = get_logger(__name__)


class Refused(NamedTuple):
    """End of a try that may succeed later."""

    error: ApiError
    not_before_s: float = 0.0
    """Time for which another try is useless, s, as the refusal says."""


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

    async def try_once(
        self, job: Job, root: Span, max_placements: int, asking: Callable[[str], None], avoid: Sequence[str] = ()
    ) -> Accepted | Refused:
        """Returns what a decode worker has accepted, none of those to `avoid`. Tells `asking` of each before it is asked: its
        events may come before its answer does.

        Raises ApiError for what no other try would change, and UnansweredError."""
        refused_by = list(avoid)
        while True:
            placement = await self._place(job, root, refused_by)
            if isinstance(placement, Refused):
                return placement
            asking(placement.decode_worker)
            try:
                answer = await self._hand_over(job, placement, root)
            except BaseException as error:
                # It may have begun.
                await self.cancel(job.request_id, placement.decode_worker, why_given_up(error))
                raise
            if isinstance(answer, GenerateAccepted):
                return Accepted(placement, DecodeWorker(placement.decode_worker, answer.incarnation))
            refused_by.append(placement.decode_worker)
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
        span = self.tracing.start(names.PLACE, parent=root, kind=SpanKind.CLIENT)
        try:
            request = PlaceRequest(
                request_id=job.request_id,
                model=job.model,
                prompt_tokens=len(job.token_ids),
                max_tokens=job.sampling.max_tokens,
                ttft_deadline_s=job.left_s,
                refused_by=tuple(refused_by),
                block_hashes=bytes(block_hashes(job.token_ids, self.block_tokens, self.hash_key)),
                block_tokens=self.block_tokens,
            )
            whom = f"The scheduler of site {self.site}"
            try:
                answer = await self._ask(job, subjects.place(self.site), request, Placement | Refusal, span, whom)
            except NoRespondersError:
                return Refused(_no_answer(whom))
            if isinstance(answer, Refused):
                return answer
            if isinstance(answer, Refusal):
                error = refused(answer.code, answer.message, answer.retry_after_s)
                if answer.code in FINAL_REFUSALS:
                    raise error
                return Refused(error, answer.retry_after_s)
            span.set_attributes({
                names.PREFILL_SITE: answer.prefill_site, names.WORKER: answer.decode_worker, names.OUTCOME: answer.outcome,
                names.ROUTE_REASON: answer.reason,
            })  # fmt: skip
            return answer
        finally:
            span.end()

    async def _hand_over(self, job: Job, placement: Placement, root: Span) -> GenerateAccepted | GenerateRefused:
        """Returns the worker's answer. A worker that is not there counts as one that refuses.

        Raises ApiError, and UnansweredError."""
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
            ttft_deadline_s=job.left_s,
        )
        subject = subjects.generate(self.site, placement.decode_worker)
        whom = f"The decode worker of site {self.site}"
        try:
            answer = await self._ask(job, subject, request, GenerateAccepted | GenerateRefused, root, whom)
        except NoRespondersError as error:
            return GenerateRefused(
                request_id=job.request_id, code=FailureCode.NO_ANSWER, message=str(error), retry_after_s=RETRY_AFTER_S
            )
        if isinstance(answer, Refused):
            raise UnansweredError(placement.decode_worker, answer.error)
        return answer

    async def _ask(
        self, job: Job, subject: str, message: object, reply_type: "TypeForm[Reply]", parent: Span, whom: str
    ) -> Reply | Refused:
        """Returns Refused when no usable reply comes in time. Raises ApiError, and NoRespondersError when it was not heard."""
        if job.left_s <= 0:
            raise too_late(job.ttft_deadline_s)
        timeout_s = min(job.left_s, self.control_deadline_s)
        try:
            return await self.bus.request(subject, message, reply_type, timeout_s, parent=parent)
        except NoRespondersError:
            raise
        except RemoteError as error:
            log.warning("asked_in_vain", whom=whom, subject=subject, code=error.code, error=str(error))
            refusal = refused(error.code, f"{whom} says: {error.message}", RETRY_AFTER_S)
            if error.code not in _PASSING_ERRORS:
                raise refusal from error
            return Refused(refusal)
        except (BusError, BadMessageError) as error:
            log.warning("asked_in_vain", whom=whom, subject=subject, error=str(error))
            return Refused(_no_answer(whom))


def why_given_up(error: BaseException) -> str:
    """Returns the reason of a cancellation for the error that ended the request."""
    return str(error) if isinstance(error, Exception) else "the client left"


def _no_answer(whom: str) -> ApiError:
    return unavailable(f"{whom} gives no answer.", RETRY_AFTER_S, FailureCode.NO_ANSWER)
