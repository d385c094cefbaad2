"""The sites at which a request's KV is prefilled, attempt by attempt, until one is verified or enough have failed."""

from prfaas.contracts.codes import FALLBACK_OUTCOMES, FailureCode
from prfaas.contracts.terms import Outcome
from prfaas_decode_worker.events import BeginAttempt
from prfaas_decode_worker.request import Request

MAX_LOCAL_ATTEMPTS = 2
"""Attempts at the last site that is tried. After them the client hears of the failure."""
MAX_ENGINE_FAILURES = 2
"""Attempts that may fail in an engine. A prompt that breaks two of them would break a third."""
MAX_UNCOUNTED_FAILURES = 4
"""Attempts that may fail with the site's server, or with a worker that is gone. Fewer count as none: they say nothing about
site or prompt, and a worker that was only slow may have been taken for gone."""
_REFUSED_BY_QUEUE = frozenset({FailureCode.NOT_IN_TIME, FailureCode.JOB_QUEUE_FULL})
_UNCOUNTED = frozenset({FailureCode.BROKER, FailureCode.WORKER_LOST})
MIN_ATTEMPT_S = 0.2
"""Least time until the deadline for another attempt to be begun."""


def next_attempt(request: Request, now_s: float) -> BeginAttempt:
    """Counts and returns the request's next attempt.

    The first one goes to the worker that the placement names, if it names one, and may pull what it names; the others go to any
    free worker of the site."""
    request.attempt += 1
    request.attempts_at_site += 1
    left_s = request.first_token_due_at - now_s
    placement = request.generate.placement
    may_fall_back = placement.fallback_site not in (None, request.prefill_site)
    limit_s = placement.fallback_after_s if may_fall_back else left_s
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
        admitted=request.admitted,
        cache_scope=request.generate.cache_scope,
        pull=placement.pull if request.attempt == 1 else None,
    )


def give_up(request: Request, code: str, message: str, now_s: float) -> tuple[str, str] | None:
    """Returns the code and sentence that the client hears after a failed attempt; None when another one is to be tried.

    The request's site, outcome and reason are then those of the next attempt."""
    placement = request.generate.placement
    fallback = placement.fallback_site
    site = request.prefill_site
    request.engine_failures += code == FailureCode.ENGINE
    request.admitted |= code not in _REFUSED_BY_QUEUE
    if code in _UNCOUNTED and request.uncounted_failures < MAX_UNCOUNTED_FAILURES:
        request.uncounted_failures += 1
        request.attempts_at_site -= 1
    if request.engine_failures >= MAX_ENGINE_FAILURES:
        return code, f"prefill failed {request.engine_failures} times, the last time at site {site}: {message}"
    if fallback is not None and fallback != site:
        request.outcome = FALLBACK_OUTCOMES.get(code, Outcome.FALLBACK_PREFILL_FAILED)
        request.reason = f"prefill at {site} failed ({code}: {message}); first placed there because {request.reason}"
        request.prefill_site, request.attempts_at_site = fallback, 0
    elif request.attempts_at_site >= MAX_LOCAL_ATTEMPTS or code in _REFUSED_BY_QUEUE:
        return code, f"prefill at site {site} failed: {message}"
    if request.first_token_due_at - now_s < MIN_ATTEMPT_S:
        late_code = code if code == FailureCode.JOB_NOT_QUEUED else FailureCode.DEADLINE
        return late_code, request.too_late(f"prefill at {site} failed: {message}")
    return None
