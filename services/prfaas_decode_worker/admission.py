"""Slots and cache space: which requests hold them, which wait for them, and which are refused.

A request whose KV is still to come needs cache space and no slot: its prefill may wait in a queue for long. While all slots of
the batch are taken no further one is let in. What comes then all the same waits for a slot, the first to come first.
"""

from typing import NamedTuple

from prfaas.contracts.codes import FailureCode
from prfaas_decode_worker.request import Phase, Request


class Limits(NamedTuple):
    """Most that a worker takes."""

    slots: int
    """Requests in the batch."""
    coming: int
    """Requests whose KV is still to come, beside them."""
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
    def batch(self) -> list[Request]:
        """Requests that hold a slot: of those whose KV is complete, the first ones."""
        complete = [request for request in self.requests.values() if request.phase is Phase.RUNNING]
        if len(complete) <= self.limits.slots:
            return complete
        return sorted(complete, key=lambda request: request.joined_at)[: self.limits.slots]

    @property
    def coming(self) -> list[Request]:
        return [request for request in self.requests.values() if request.phase is Phase.TRANSFER]

    @property
    def holding(self) -> list[Request]:
        """Requests that hold cache space."""
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
        """Lets waiting requests fetch their KV, and returns these.

        First come, first served: small requests do not overtake a large one at the head, or it would starve."""
        admitted: list[Request] = []
        for request in self.waiting:
            if now_s >= request.first_token_due_at:
                continue  # the next tick fails it; space would be wasted on it
            if not self._fits(request.cache_bytes):
                break
            request.phase = Phase.TRANSFER
            admitted.append(request)
        return admitted

    def validate(self) -> None:
        assert len(self.batch) <= self.limits.slots, "more requests hold a slot than there are slots"
        assert len(self.coming) <= self.limits.coming, "more KV is to come than may"
        assert len(self.holding) < self.limits.slots + self.limits.coming or not self.limits.coming, (
            "more were let in than may come"
        )
        assert self.cache_bytes <= self.limits.cache_bytes, "more cache is promised than there is"
        assert len(self.waiting) <= self.limits.waiting, "the waiting line is longer than its limit"
        assert all(request_id == request.request_id for request_id, request in self.requests.items())

    def _fits(self, cache_bytes: int) -> bool:
        complete = len(self.holding) - len(self.coming)
        room = complete < self.limits.slots and len(self.coming) < self.limits.coming
        return room and self.cache_bytes + cache_bytes <= self.limits.cache_bytes
