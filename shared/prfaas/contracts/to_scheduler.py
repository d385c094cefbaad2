"""What the scheduler hears: requests to place, heartbeats of workers, estimates of links."""

from enum import StrEnum

import msgspec


class PlaceRequest(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    request_id: str
    """Unique, made by the gateway. Never the client's X-Request-ID: that may repeat, and transfers are named after this one."""
    model: str
    prompt_tokens: int
    max_tokens: int
    ttft_deadline_s: float
    refused_by: tuple[str, ...] = ()
    """Decode workers that did not take this request a moment ago: it is placed again, on none of them."""
    block_hashes: bytes = b""
    """Of the prompt's whole blocks, by kvcache.blocks.block_hashes: what the scheduler finds cached prefixes by."""
    block_tokens: int = 0
    """Of a block; 0 without block_hashes."""


class Outcome(StrEnum):
    """Why a request ran where it ran, or how that changed."""

    LOCAL_SHORT = "local_short"
    LOCAL_POLICY = "local_policy"
    LOCAL_NO_REMOTE = "local_no_remote"
    LOCAL_LINK_SCARCE = "local_link_scarce"
    OFFLOADED = "offloaded"
    FALLBACK_TIMEOUT = "fallback_timeout"
    FALLBACK_CORRUPT = "fallback_corrupt"
    FALLBACK_BROKER = "fallback_broker"
    FALLBACK_PREFILL_FAILED = "fallback_prefill_failed"


class Placement(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    transfer_id: str
    prefill_site: str
    prefill_worker: str | None = None
    """The one that holds the prompt's prefix, for the first attempt; None: whoever of the site is free first."""
    decode_worker: str
    outcome: Outcome
    reason: str
    """A sentence with the numbers that decided."""
    fallback_site: str | None = None
    """Where the next attempt prefills when the first one fails; None when the first one already is the local site."""
    fallback_after_s: float
    """How long the first attempt may take until its KV is verified."""
    deferred_s: float = 0.0
    """Not 0: an attempt before that one, for so long, in the site's queue of jobs that wait until no other job does."""


class Refusal(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    code: str
    message: str
    retry_after_s: float


class AttemptEnded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Decode worker -> scheduler: a prefill that was placed is over, so its place in the queue is free again."""

    request_id: str
    site: str
    verified: bool
    """False: it failed or was given up."""
    code: str = ""
    next_site: str | None = None
    """Where the request's next attempt prefills."""


class Role(StrEnum):
    PREFILL = "prefill"
    DECODE = "decode"


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A worker's announcement, put into the workers bucket of every site that may place work on it. Silence means death."""

    site: str
    worker: str
    role: Role
    model: str
    fingerprint: str
    max_context_tokens: int
    queued_s: float = 0.0
    """Prefill, where several pd sites share the worker: work in the site's queue that no worker has taken. Their schedulers do
    not hear of one another's placements, but they hear of the queue."""
    busy_s: float = 0.0
    """Likewise: what is left of the job that the worker has in hand."""
    prefill_points: tuple[tuple[float, float], ...] = ()
    """Prefill: observed (tokens, seconds) in rising order; read by capacity.observed.interpolated."""
    kv_points: tuple[tuple[float, float], ...] = ()
    """Prefill: (tokens, KV bytes) of the model in rising order; read likewise."""
    running: int = 0
    """Decode: requests that hold a slot."""
    slots: int = 0
    """Decode: how many requests may hold one at once."""
    waiting: int = 0
    """Decode: accepted requests without a slot."""
    waiting_limit: int = 0
    """Decode: more than this many are refused."""
    step_points: tuple[tuple[float, float], ...] = ()
    """Decode: observed (requests in the batch, seconds of a step) in rising order."""
    output_tokens: float = 0.0
    """Decode: mean length of the last answers; 0 while there is none."""
    movable: bool = False
    """It can become a worker of the other role when it is told to."""
    draining: bool = False

    @property
    def key(self) -> str:
        return f"{self.site}.{self.role}.{self.worker}"


class BlocksChanged(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What a worker's prefix cache took in and gave up. A lost one costs a hit or a vain hope of one, never a wrong token:
    workers compare tokens, and the scheduler asks for BlocksHeld when the numbers have a gap."""

    site: str
    worker: str
    role: Role
    incarnation: str
    """Of the process: a new one holds nothing."""
    sequence: int
    """From 1, without gaps within an incarnation."""
    stored: bytes = b""
    """Block hashes, packed like PlaceRequest.block_hashes."""
    removed: bytes = b""


class BlocksHeld(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """All that a worker's prefix cache holds, as of `sequence` (0: nothing has changed yet)."""

    incarnation: str
    sequence: int
    hashes: bytes


class LinkEstimate(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A directed link as last measured. Put again every second; silence means that nothing is known of it any more."""

    source: str
    destination: str
    rtt_s: float
    """The smallest of the last ones: without what queued."""
    jitter_s: float = 0.0
    goodput_bytes_per_s: float
    """What KV may count on: at most the link's egress budget."""
    samples: int
    """How many measurements stand behind the figures; 0 means none yet."""
    confidence: float = 1.0
    """0 to 1: how many of the last measurements of goodput there are, and agree."""
    age_s: float = 0.0
    """Of the last measurement of goodput."""
    retransmit_share: float | None = None
    """Of the segments that left on the site's leaf connections to the destination lately; None: the kernel was not asked."""

    @property
    def key(self) -> str:
        return f"{self.source}.{self.destination}"
