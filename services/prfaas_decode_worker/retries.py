"""Where a request's KV is prefilled, attempt by attempt, until one is verified or enough have failed."""

from prfaas.contracts.codes import FALLBACK_OUTCOMES, OUT_OF_TIME, FailureCode
from prfaas.contracts.terms import Outcome
from prfaas_decode_worker.events import BeginAttempt
from prfaas_decode_worker.request import Request

MAX_LOCAL_ATTEMPTS = 2
"""At the last site that is tried: a broken local prefill is tried once more, then the client hears of it."""
MIN_ATTEMPT_S = 0.2
"""With less time than this until the deadline another attempt is not begun."""


def next_attempt(request: Request, now_s: float) -> BeginAttempt:
    """The first one goes to the worker that the placement names, if it does; the others to whoever of the site is free. A
    deferred one comes before all these."""
    request.attempt += 1
    request.attempts_at_site += 1
    left_s = request.deadline_s - now_s
    placement = request.generate.placement
    deferred = request.attempt == 1 and placement.deferred_s > 0
    may_fall_back = placement.fallback_site not in (None, request.prefill_site)
    limit_s = placement.deferred_s if deferred else placement.fallback_after_s if may_fall_back else left_s
    return BeginAttempt(
        request_id=request.request_id,
        transfer_id=placement.transfer_id,
        attempt=request.attempt,
        prefill_site=request.prefill_site,
        prefill_worker=placement.prefill_worker if request.attempt == 1 else None,
        token_ids=tuple(request.prompt[:-1]),
        total_tokens=request.total_tokens,
        tenant=request.generate.tenant,
        timeout_s=min(left_s, limit_s),
        deferred=deferred,
    )


def give_up(request: Request, code: str, message: str, now_s: float) -> tuple[str, str] | None:
    """After a failed attempt: the code and sentence that the client hears, or None when there is another one to try; then the
    request's site, outcome and reason are those of that one."""
    placement = request.generate.placement
    fallback = placement.fallback_site
    site = request.prefill_site
    if request.attempt == 1 and placement.deferred_s and code in OUT_OF_TIME:
        request.attempts_at_site = 0  # nobody had time for it: now it waits in turn
    elif fallback is not None and fallback != site:
        request.outcome = FALLBACK_OUTCOMES.get(code, Outcome.FALLBACK_PREFILL_FAILED)
        request.reason = f"prefill at {site} failed ({code}: {message}); first placed there because {request.reason}"
        request.prefill_site, request.attempts_at_site = fallback, 0
    elif request.attempts_at_site >= MAX_LOCAL_ATTEMPTS:
        return code, f"prefill at site {site} failed: {message}"
    if request.deadline_s - now_s < MIN_ATTEMPT_S:
        return FailureCode.DEADLINE, request.too_late(f"prefill at {site} failed: {message}")
    return None
