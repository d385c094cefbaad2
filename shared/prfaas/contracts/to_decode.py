"""What a decode worker hears: from gateways, and from the prefill workers that serve its transfers."""

import msgspec

from prfaas.contracts.to_scheduler import Placement


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    top_logprobs: int | None = None
    """None: no log-probabilities at all; 0: of the chosen token only."""


class Generate(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    request_id: str
    model: str
    placement: Placement
    token_ids: bytes
    """The whole prompt, packed by wire.pack_tokens."""
    sampling: Sampling
    reply_to: str
    """Subject of the gateway's events."""
    tenant: str = ""
    """Whom the request belongs to; empty without API keys."""
    ttft_deadline_s: float
    """From the moment the worker hears this: without a first token by then the request fails."""


class GenerateAccepted(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    request_id: str


class GenerateRefused(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    request_id: str
    code: str
    message: str
    retry_after_s: float


class CancelGenerate(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    request_id: str
    reason: str


class PrefillStarted(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    transfer_id: str
    attempt: int
    worker: str
    queue_s: float


class PrefillDone(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    transfer_id: str
    attempt: int
    worker: str
    prefill_s: float
    ended_unix_s: float
    """When the last layer was computed, by the prefill site's clock."""


class PrefillFailed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    transfer_id: str
    attempt: int
    worker: str
    code: str
    message: str


PrefillProgress = PrefillStarted | PrefillDone | PrefillFailed
