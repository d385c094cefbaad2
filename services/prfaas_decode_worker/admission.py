"""Slots and cache space: which requests hold them, which wait for them, and which are refused."""

from typing import NamedTuple

from prfaas.contracts.codes import FailureCode
from prfaas_decode_worker.request import Phase, Request


class Limits(NamedTuple):
    """Most that a worker takes."""

    slots: int
    waiting: int
    context_tokens: int
    cache_bytes: int


class Refusal(NamedTuple):
    """Reason why a request is not taken."""

    code: FailureCode
    message: str


class Admission:
    """All requests of a worker by id, in the order of their arrival."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.requests: dict[str, Request] = {}

    @property
    def holding(self) -> list[Request]:
        """Requests that hold a slot and cache space."""
        return [request for request in self.requests.values() if request.phase is not Phase.WAITING]

    @property
    def waiting(self) -> list[Request]:
        return [request for request in self.requests.values() if request.phase is Phase.WAITING]

    @property
    def cache_bytes(self) -> int:
        return sum(request.cache_bytes for request in self.holding)

    def refusal(self, prompt_tokens: int, max_tokens: int, cache_bytes: int) -> Refusal | None:
        """Returns why a request of this size cannot be taken, ever or now; None where it can."""
        total_tokens = prompt_tokens + max_tokens
        if not prompt_tokens or max_tokens < 1:
            return Refusal(FailureCode.BAD_REQUEST, "a request needs at least one prompt token and one token to generate")
        if total_tokens > self.limits.context_tokens:
            return Refusal(
                FailureCode.CONTEXT_LENGTH_EXCEEDED,
                f"{prompt_tokens} prompt tokens and {max_tokens} to generate exceed the context of "
                f"{self.limits.context_tokens} tokens",
            )
        if cache_bytes > self.limits.cache_bytes:
            return Refusal(
                FailureCode.CACHE_TOO_SMALL,
                f"{total_tokens} tokens need {cache_bytes} bytes of KV cache, the worker has {self.limits.cache_bytes}",
            )
        waiting = len(self.waiting)
        if waiting >= self.limits.waiting and (waiting or not self._fits(cache_bytes)):
            return Refusal(
                FailureCode.OVERLOADED, f"all {self.limits.slots} slots are taken and {waiting} requests wait, which is the limit"
            )
        return None

    def admit(self, now_s: float) -> list[Request]:
        """Gives free slots to waiting requests, and returns these.

        First come, first served: small requests do not overtake a large one at the head, or it would starve."""
        admitted: list[Request] = []
        for request in self.waiting:
            if now_s >= request.first_token_due_at:
                continue  # the next tick fails it; a slot would be wasted on it
            if not self._fits(request.cache_bytes):
                break
            request.phase = Phase.TRANSFER
            admitted.append(request)
        return admitted

    def validate(self) -> None:
        assert len(self.holding) <= self.limits.slots, "more requests hold a slot than there are slots"
        assert self.cache_bytes <= self.limits.cache_bytes, "more cache is promised than there is"
        assert len(self.waiting) <= self.limits.waiting, "the waiting line is longer than its limit"
        assert all(request_id == request.request_id for request_id, request in self.requests.items())

    def _fits(self, cache_bytes: int) -> bool:
        return len(self.holding) < self.limits.slots and self.cache_bytes + cache_bytes <= self.limits.cache_bytes
