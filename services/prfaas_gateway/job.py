"""A client's request in tokens."""

import asyncio
from dataclasses import dataclass

from prfaas.contracts.to_decode import Sampling
from prfaas_gateway.openai.errors import ApiError, unavailable


@dataclass(frozen=True, kw_only=True)
class Job:
    request_id: str
    model: str
    tenant: str
    token_ids: list[int]
    sampling: Sampling
    ttft_deadline_s: float
    deadline_at: float
    """The moment of `ttft_deadline_s` on the loop's clock, s."""

    @property
    def left_s(self) -> float:
        return self.deadline_at - asyncio.get_running_loop().time()


def too_late(ttft_deadline_s: float) -> ApiError:
    return unavailable(f"No first token within {ttft_deadline_s:g} s.", 1.0, "deadline")


def sentence(message: str) -> str:
    return f"{message[:1].upper()}{message[1:].rstrip('.')}."
