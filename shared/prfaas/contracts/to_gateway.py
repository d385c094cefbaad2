"""What a gateway hears while a request runs.

Events of one request are numbered from 0 without gaps: a lost one is an error, never lost text.
"""

import msgspec

from prfaas.contracts.to_scheduler import Outcome


class TokenLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: tuple[int, ...] = ()


class TokenDetail(msgspec.Struct, frozen=True, kw_only=True):
    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...] = ()


class Started(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The cache is complete and verified; tokens follow. Only now is it certain where the prefill ran."""

    request_id: str
    sequence: int
    prefill_site: str
    outcome: Outcome
    reason: str
    cached_tokens: int


class Tokens(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    request_id: str
    sequence: int
    text: str
    """May be empty: a token can end inside a character or a possible stop string."""
    token_ids: tuple[int, ...]
    details: tuple[TokenDetail, ...] = ()
    """One per token, when log-probabilities were asked for."""


class TransferReport(msgspec.Struct, frozen=True, kw_only=True):
    """How one request's KV came: for the demo's table, spans and benchmarks."""

    bytes: int = 0
    saved_bytes: int = 0
    """That did not have to come: the decode worker had them from an earlier prompt."""
    reused_tokens: int = 0
    """Whose KV in full layers these bytes are."""
    frames: int = 0
    lossy_frames: int = 0
    """Of `frames`: came in 8 bits, so that the answer may differ a little from one without."""
    attempts: int = 0
    duration_s: float = 0.0
    """From the first frame's arrival to the whole verified."""
    residual_s: float = 0.0
    """From the end of prefill to the whole verified: what did not overlap. As exact as the two sites' clocks agree."""
    prefill_s: float = 0.0
    queue_s: float = 0.0


class Finished(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    request_id: str
    sequence: int
    finish_reason: str
    """`stop` or `length`."""
    text: str
    """What was held back for stop strings and is now certain."""
    completion_tokens: int
    transfer: TransferReport


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    request_id: str
    sequence: int
    code: str
    message: str
    retry_after_s: float | None = None
    """Set when trying again may help: the gateway answers 503; else 500."""


GenerateEvent = Started | Tokens | Finished | Failed
