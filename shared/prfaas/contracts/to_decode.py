"""Messages that a decode worker receives from gateways, and from the prefill workers that serve its transfers."""

from typing import Final

import msgspec

from prfaas.contracts.fields import Count, Marks, Seconds, SubjectToken
from prfaas.contracts.to_gateway import Placement


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """Number of the likeliest tokens that may be drawn; 0 and -1: all."""
    min_p: float = 0.0
    """Least probability of a token that may be drawn, as a part of the likeliest one's."""
    repetition_penalty: float = 1.0
    """Divisor of the positive logits, and factor of the negative ones, of tokens in the prompt or the answer so far."""
    presence_penalty: float = 0.0
    """Subtracted from the logits of tokens in the answer so far."""
    frequency_penalty: float = 0.0
    """Subtracted likewise, times how often each token is there."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Pairs of a token id and what is added to its logit."""
    bad_words: tuple[tuple[int, ...], ...] = ()
    """Sequences of token ids that do not come in the answer."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end the answer as an end token does, also where end tokens are ignored."""
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    top_logprobs: int | None = None
    """Alternatives per token; 0: the chosen token's log-probability only; None: no log-probabilities at all."""
    grammar: str = ""
    """Grammar that the answer follows, in llguidance's form; empty: none."""
    shown_tokens: tuple[str, ...] = ()
    """Special tokens that are part of the text all the same, such as those that mark a call."""


SAMPLING_LEVEL: Final = 1
"""Number that grows with the fields of Sampling: a process of a lower level leaves out what it does not know, without a word."""
_LEVEL_0: Final = frozenset(
    ["max_tokens", "min_tokens", "temperature", "top_p", "seed", "stop", "ignore_eos", "top_logprobs"]
)  # fmt: skip


def sampling_level(sampling: Sampling) -> int:
    """Returns the lowest level of a process that samples as is asked for."""
    asked = (field.name for field in msgspec.structs.fields(sampling) if getattr(sampling, field.name) != field.default)
    return 0 if _LEVEL_0.issuperset(asked) else 1


class Generate(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    request_id: str
    model: str
    placement: Placement
    token_ids: bytes
    """The whole prompt, packed by wire.pack_tokens."""
    sent_token_ids: bytes = b""
    """Tokens of the answer that an earlier decode worker has sent, packed likewise. They count as generated and their text
    as sent: they are computed again, as steps and not as a prefill, and the answer goes on after them."""
    sampling: Sampling
    reply_to: str
    """Subject of the gateway's events."""
    gateway: str = ""
    gateway_incarnation: str = ""
    """Names the gateway's process: what a dead one asked for is for no client. Empty: it does not say."""
    tenant: str = ""
    """Owner of the request; empty without API keys."""
    cache_scope: str = ""
    """Name of those who share cached prefixes: prompts of two scopes never meet."""
    ttft_deadline_s: float
    """Time until the first token, counted from the arrival of this message: without one by then the request fails."""


class AskRunning(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Gateway -> decode worker: is this process there, and how far are the gateway's requests? Answered by Running."""

    gateway: SubjectToken
    gateway_incarnation: str
    resend: dict[str, Count] = {}
    """Number of the first event that was lost, by request: it and those after it are to be sent again, where they are kept."""


class CancelGenerate(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    request_id: str
    reason: str


class PrefillDispatched(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The job has its worker, and no other one gets it: the decode worker watches whether that one lives."""

    transfer_id: str
    attempt: int
    nuid: str
    """Name of the attempt's object, which only processes that were given the job know."""
    worker: SubjectToken
    incarnation: SubjectToken | None = None
    """Process of that name which was ready for the job; None: not known. Another one of the name may take it instead."""


class PrefillStarted(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    transfer_id: str
    attempt: int
    nuid: str
    """Name of the attempt's object, which only processes that were given the job know."""
    worker: SubjectToken
    incarnation: SubjectToken | None = None
    """Process of that name which computes the job; None: it does not say."""
    queue_s: float
    direct: bool = False
    """True if the KV goes to the transfer's inbox, False if it goes into the object."""


class PrefillDone(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    transfer_id: str
    attempt: int
    nuid: str
    """Name of the attempt's object, which only processes that were given the job know."""
    worker: str
    prefill_s: float
    ended_unix_s: float
    """Moment at which the last layer was computed, by the prefill site's clock."""
    chunks: Marks = ()
    """(seconds since the prefill's start, prompt tokens computed by then)."""
    direct: bool = False
    """True if the KV goes to the inbox, as PrefillStarted says, which may be lost."""


class PrefillFailed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    transfer_id: str
    attempt: int
    nuid: str
    """Name of the attempt's object, which only processes that were given the job know."""
    worker: str
    code: str
    """A FailureCode, or one of a newer version."""
    message: str
    retry_after_s: Seconds | None = None
    """Time after which the queue may have room again; set by the dispatcher that refuses a job."""


PrefillProgress = PrefillDispatched | PrefillStarted | PrefillDone | PrefillFailed
