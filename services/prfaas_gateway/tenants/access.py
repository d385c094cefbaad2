"""Requests let in or refused by their API keys and their tenants' limits, with an audit line for each refusal."""

import asyncio
import math
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Final

from prfaas.contracts.codes import FailureCode
from prfaas.contracts.to_gateway import Finished, GenerateEvent, Started, Tokens
from prfaas.telemetry.logs import get_logger
from prfaas_gateway.openai.errors import ApiError, overloaded, unauthorized
from prfaas_gateway.tenants.directory import Caller, Directory, KeyRefused, KeyRefusedWhy
from prfaas_gateway.tenants.metrics import TenantMetrics
from prfaas_gateway.tenants.usage import Limit, LimitReached, Place

_WORDS: Final = {
    Limit.REQUESTS_PER_MINUTE: "{:g} requests a minute",
    Limit.TOKENS_PER_MINUTE: "{:g} tokens a minute",
    Limit.REQUESTS_AT_ONCE: "{:g} requests at once",
    Limit.LINK_BYTES_PER_DAY: "{:g} bytes a day over links",
}
_HEADERS: Final = {Limit.REQUESTS_PER_MINUTE: "requests", Limit.TOKENS_PER_MINUTE: "tokens"}
RATE_LIMIT_HEADERS: Final = tuple(
    f"x-ratelimit-{what}-{unit}" for unit in _HEADERS.values() for what in ("limit", "remaining", "reset")
)
"""Names of the headers that say what is left of a limit, as OpenAI's API has them."""

log = get_logger(__name__)


class Admitted:
    """One request that its tenant's limits have let in."""

    def __init__(
        self, access: "Access", caller: Caller, place: Place, headers: MutableMapping[str, str], said: dict[str, str]
    ) -> None:
        self._access = access
        self._caller = caller
        self._headers = headers
        self._said = said
        self.place = place
        self._prompt_tokens: Sequence[int] = (0,)
        """Tokens of the prompt that each choice is charged with."""
        self._prompts_used_tokens = 0
        self._answer_tokens: dict[int, int] = {}
        """Tokens of each choice's answer so far."""
        self.used_tokens = 0
        """Tokens of the prompt and the answer so far; none while the prompt is not computed."""

    def reserve(self, prompt_tokens: Sequence[int], max_tokens: int) -> None:
        """Takes the tokens that the request may use: those of the prompt that each choice is charged with, and of all answers.

        Raises ApiError 429, and 400 where the limit is less than that."""
        needed = sum(prompt_tokens) + max_tokens
        self._prompt_tokens = prompt_tokens
        reached = self._caller.tenant.usage.reserve(self.place, needed, asyncio.get_running_loop().time())
        self._access.show_limits(self._caller, self._headers)
        if reached is not None:
            said = f"Prompt and `max_tokens` together are {needed} tokens"
            raise self._access.refused(self._caller, reached, self._said, said)

    def widen(self, answers: int) -> None:
        """Counts the request as that number at once. Raises ApiError 429, and 400 where the limit is less than that."""
        reached = self._caller.tenant.usage.widen(self.place, answers, asyncio.get_running_loop().time())
        if reached is not None:
            raise self._access.refused(self._caller, reached, self._said, f"The request asks for {answers} answers at once")

    def heard(self, event: GenerateEvent, own_site: str, choice: int = 0) -> None:
        """Counts what an event of an answer says was used."""
        match event:
            case Started():
                self._prompts_used_tokens += self._prompt_tokens[choice]
                self._use()
                self._ship(event, own_site)
            case Tokens():
                self._answer_tokens[choice] = self._answer_tokens.get(choice, 0) + len(event.token_ids)
                self._use()
            case Finished():
                self._answer_tokens[choice] = max(self._answer_tokens.get(choice, 0), event.completion_tokens)
                self._use()

    def moved(self, started: Started, own_site: str) -> None:
        """Counts what came over a link for an answer that goes on somewhere else: its tokens are counted already."""
        self._ship(started, own_site)

    def _ship(self, started: Started, own_site: str) -> None:
        if started.prefill_site != own_site:
            self._caller.tenant.usage.ship(started.kv_bytes, asyncio.get_running_loop().time())
            self._access.metrics.link_bytes(self._caller.tenant, started.kv_bytes)

    def _use(self) -> None:
        tokens = self._prompts_used_tokens + sum(self._answer_tokens.values())
        self._access.metrics.tokens(self._caller.tenant, tokens - self.used_tokens)
        self.used_tokens = tokens


class Access:
    def __init__(self, directory: Directory, metrics: TenantMetrics) -> None:
        self.directory = directory
        self.metrics = metrics

    def check(self, authorization: str, said: dict[str, str]) -> Caller:
        """Returns who asks. `said` goes into the audit line of a refusal. Raises ApiError 401."""
        found = self.directory.find(authorization)
        if isinstance(found, Caller):
            return found
        self.metrics.key_refused(found.why)
        log.warning("key_refused", audit=True, why=found.why.value, key_id=found.key_id or None, **said)
        raise _key_refused(found)

    @contextmanager
    def enter(self, caller: Caller, headers: MutableMapping[str, str], said: dict[str, str]) -> Iterator[Admitted]:
        """Counts a request until it ends. Puts rate limit headers into `headers`. Raises ApiError 429."""
        usage = caller.tenant.usage
        clock = asyncio.get_running_loop().time
        place = usage.enter(clock())
        self.show_limits(caller, headers)
        if isinstance(place, LimitReached):
            raise self.refused(caller, place, said)
        admitted = Admitted(self, caller, place, headers, said)
        try:
            yield admitted
        finally:
            usage.leave(place, admitted.used_tokens, clock())

    def refused(self, caller: Caller, reached: LimitReached, said: dict[str, str], needs: str = "") -> ApiError:
        """Counts and logs a refusal, and returns its error. `needs`: what exceeds the limit by itself."""
        self.metrics.limit_reached(caller.tenant, reached.limit)
        log.warning(
            "limit_reached", audit=True, limit=reached.limit.value, tenant=caller.tenant.name, key_id=caller.key_id,
            retry_after_s=reached.retry_after_s, **said,
        )  # fmt: skip
        allowed = _WORDS[reached.limit].format(reached.allowed)
        if reached.retry_after_s is None:
            message = f"{needs}, and your limit here is {allowed}."
            return ApiError(400, message, code=FailureCode.REQUEST_EXCEEDS_LIMIT)
        message = f"Your limit of {allowed} is reached. Try again in {max(1, math.ceil(reached.retry_after_s))} s."
        return overloaded(message, reached.retry_after_s, FailureCode.RATE_LIMIT_EXCEEDED)

    def show_limits(self, caller: Caller, headers: MutableMapping[str, str]) -> None:
        now_s = asyncio.get_running_loop().time()
        for limit, unit in _HEADERS.items():
            if quota := caller.tenant.usage.quota(limit, now_s):
                headers[f"x-ratelimit-limit-{unit}"] = str(quota.limit)
                headers[f"x-ratelimit-remaining-{unit}"] = str(quota.remaining)
                headers[f"x-ratelimit-reset-{unit}"] = f"{quota.reset_s:.3f}s"


def _key_refused(refused: KeyRefused) -> ApiError:
    match refused.why:
        case KeyRefusedWhy.MISSING:
            return unauthorized("No API key was given; send it as `Authorization: Bearer KEY` or `x-api-key: KEY`.")
        case KeyRefusedWhy.UNKNOWN:
            return unauthorized("The API key is not known here.")
        case KeyRefusedWhy.REVOKED:
            return unauthorized("The API key has been revoked.")
