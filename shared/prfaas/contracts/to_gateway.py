"""Messages that a gateway receives: the scheduler's and the decode worker's replies, then the events of a running request.

Events of one request are numbered from 0 without gaps: a lost one is an error, never lost text.
"""

import msgspec

from prfaas.contracts.fields import Count, Marks
from prfaas.contracts.kv import PrefixSource, TransferReport
from prfaas.contracts.terms import Outcome


class Placement(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Reply to PlaceRequest; handed on to the decode worker inside Generate."""

    transfer_id: str
    prefill_site: str
    prefill_worker: str | None = None
    """Worker that holds the prompt's prefix, for the first attempt; None: any worker of the site."""
    pull: PrefixSource | None = None
    """Worker from which the one that prefills may get the prompt's prefix; for the first attempt."""
    decode_worker: str
    outcome: Outcome
    reason: str
    """A sentence with the numbers that decided."""
    fallback_site: str | None = None
    """Site where the next attempt prefills when the first one fails; None when the first one already is the local site."""
    fallback_after_s: float
    """Time that the first attempt may take until its KV is verified."""
    deferred_s: float = 0.0
    """Always 0 and read by no process: a field of the version before, which may read it and send it."""
    term: Count = 0
    """Leadership in which it was decided: the placement of an earlier one than another is out of date."""


class Refusal(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Reply to PlaceRequest."""

    code: str
    """A FailureCode, or one of a newer version."""
    message: str
    retry_after_s: float


class GenerateAccepted(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Reply to Generate."""

    request_id: str
    incarnation: str = ""
    """Heartbeat.incarnation of the process that has the request."""
    sampling_level: Count = 0
    """SAMPLING_LEVEL of the process: see there."""


class GenerateRefused(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Reply to Generate."""

    request_id: str
    code: str
    """A FailureCode, or one of a newer version."""
    message: str
    retry_after_s: float


class Running(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Reply to AskRunning."""

    incarnation: str
    """Heartbeat.incarnation of the process that answers."""
    events: dict[str, Count] = {}
    """Number of events so far of each request of the asking gateway that is not over."""


class TokenLogprob(msgspec.Struct, frozen=True):
    token: str
    r"""The token's bytes as text; each as `\xf0` where they are not UTF-8 by themselves."""
    logprob: float
    bytes: tuple[int, ...] = ()
    """The token's own bytes; none for an id that the tokenizer does not have."""
    token_id: int | None = None


class TokenDetail(msgspec.Struct, frozen=True, kw_only=True):
    chosen: TokenLogprob
    top: tuple[TokenLogprob, ...] = ()
    text_offset: int = 0
    """Characters of the answer before the token's text."""


class Started(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The cache is complete and verified; tokens follow. Only now is it certain where the prefill ran."""

    request_id: str
    sequence: int
    prefill_site: str
    outcome: Outcome
    reason: str
    cached_tokens: int
    kv_bytes: Count = 0
    """Bytes of KV that were shipped for the prompt, decoded, without headers."""


class Tokens(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    request_id: str
    sequence: int
    text: str
    """May be empty: a token can end inside a character or a possible stop string."""
    token_ids: tuple[int, ...]
    details: tuple[TokenDetail, ...] = ()
    """One per token, when log-probabilities were asked for."""


class PrefillTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Account of the prefill worker's part, and of the transfer's part that did not overlap with it."""

    residual_s: float = 0.0
    """Time between the end of prefill and the whole verified. As exact as the two sites' clocks agree."""
    prefill_s: float = 0.0
    queue_s: float = 0.0
    chunks: Marks = ()
    """(seconds since the prefill's start, prompt tokens computed by then)."""


class Finished(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    request_id: str
    sequence: int
    finish_reason: str
    """A FinishReason."""
    text: str
    """Text that was held back for stop strings and is now certain."""
    completion_tokens: int
    stop: str = ""
    """Stop string that ended the answer; empty: something else did, or the worker is of a version that does not say."""
    transfer: TransferReport
    prefill: PrefillTimes = PrefillTimes()


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    request_id: str
    sequence: int
    code: str
    """A FailureCode, or one of a newer version."""
    message: str
    retry_after_s: float | None = None
    """Set when trying again may help: the gateway answers 503, or 429 for want of room; else 500."""


GenerateEvent = Started | Tokens | Finished | Failed
