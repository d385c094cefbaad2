"""A client's request in tokens, and the errors that end it."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from prfaas.contracts.codes import FINAL_REFUSALS, REQUEST_FAULTS, TOO_MANY, FailureCode
from prfaas.contracts.terms import Detour
from prfaas.contracts.to_decode import Sampling
from prfaas.contracts.to_gateway import Failed
from prfaas_gateway.openai.errors import ApiError, internal, invalid, overloaded, unavailable


@dataclass(frozen=True, kw_only=True)
class Job:
    request_id: str
    model: str
    tenant: str
    cache_scope: str
    """Name of those who share cached prefixes with this prompt."""
    token_ids: list[int]
    sampling: Sampling
    ttft_deadline_s: float
    deadline_at: float
    """End of `ttft_deadline_s` on the event loop's clock, s."""
    sent_token_ids: tuple[int, ...] = ()
    """Tokens of the answer that an earlier decode worker has sent: another one goes on after them."""
    detours: Counter[Detour] = field(default_factory=Counter)
    """Detours of the client's request, however often it is placed."""
    asked: list[str] = field(default_factory=list)
    """Decode workers that it was handed over to, in order."""

    @property
    def left_s(self) -> float:
        return self.deadline_at - asyncio.get_running_loop().time()


def too_late(ttft_deadline_s: float, awaited: str = "first token") -> ApiError:
    return unavailable(f"No {awaited} within {ttft_deadline_s:g} s.", 1.0, FailureCode.DEADLINE)


def refused(code: str, message: str, retry_after_s: float) -> ApiError:
    """Returns the client's error for a refusal by the scheduler or a decode worker."""
    if code in TOO_MANY:
        return overloaded(_sentence(message), retry_after_s, code)
    if code in REQUEST_FAULTS:
        return invalid(_sentence(message), code=code)
    if code in FINAL_REFUSALS:
        return internal(_sentence(message), code)
    return unavailable(_sentence(message), retry_after_s, code)


def failure(failed: Failed) -> ApiError:
    """Returns the client's error for the failure of a request that a decode worker had accepted."""
    if failed.retry_after_s is None:
        return internal(_sentence(failed.message), failed.code)
    if failed.code in TOO_MANY:
        return overloaded(_sentence(failed.message), failed.retry_after_s, failed.code)
    return unavailable(_sentence(failed.message), failed.retry_after_s, failed.code)


def _sentence(message: str) -> str:
    return f"{message[:1].upper()}{message[1:].rstrip('.')}."
