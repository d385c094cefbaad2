"""Messages that schedulers receive: requests to place, workers' heartbeats, caches and role replies, estimates of links, and the
lease by which one of them leads."""

from typing import Annotated

import msgspec
from msgspec import Meta

from prfaas.contracts.fields import Count, Id, Label, Points, Seconds, Share, Size, SubjectToken, check_rising
from prfaas.contracts.terms import Role


class PlaceRequest(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    request_id: Id
    """Unique, made by the gateway. Never the client's X-Request-ID: that may repeat, and transfers are named after this one."""
    model: Label
    prompt_tokens: Annotated[int, Meta(ge=1, le=1 << 32)]
    max_tokens: Count
    ttft_deadline_s: Seconds
    refused_by: tuple[SubjectToken, ...] = ()
    """Decode workers that did not take this request a moment ago: it is placed again, on none of them."""
    block_hashes: bytes = b""
    """Hashes of the prompt's whole blocks, made by kvcache.blocks.block_hashes. The scheduler finds cached prefixes by them."""
    block_tokens: Count = 0
    """Tokens of a block; 0 without block_hashes."""


class AttemptEnded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Decode worker -> scheduler: a prefill that was placed is over, so its place in the queue is free again."""

    request_id: Id
    site: SubjectToken
    verified: bool
    """False: it failed or was given up."""
    code: Label = ""
    """A FailureCode, or one of a newer version; empty when verified."""
    next_site: SubjectToken | None = None
    """Site where the request's next attempt prefills."""


class KVDisagreed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Decode worker -> scheduler: KV that a site made is not what the own site makes of the same prompt."""

    site: SubjectToken
    worker: Label
    """Worker that made it, by its own word."""
    request_id: Id


AttemptNews = AttemptEnded | KVDisagreed


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A worker's announcement, put into the workers bucket of every site that may place work on it. Silence means death."""

    site: SubjectToken
    worker: SubjectToken
    incarnation: Label = ""
    """Names the process: a new one holds no slot, cache or request of the old one. Empty: it does not say."""
    role: Role
    model: Label
    fingerprint: Label
    max_context_tokens: Count
    queued_s: Seconds = 0.0
    """Prefill, where several pd sites share the worker: work in the site's queue that no worker has taken. Their schedulers do
    not see one another's placements, but they see the queue."""
    busy_s: Seconds = 0.0
    """Prefill, likewise: time left of the job that the worker runs."""
    prefill_points: Points = ()
    """Prefill: observed (tokens, seconds) in rising order; read by capacity.observed.interpolated."""
    kv_points: Points = ()
    """Prefill: (tokens, KV bytes) of the model in rising order; read by capacity.observed.interpolated."""
    pulls: bool = False
    """Prefill: the worker can pull cached prefixes, and send its own."""
    pull_bytes_per_s: Size = 0.0
    """Prefill: rate of the last prefixes pulled within its site; 0: none yet."""
    disk_bytes_per_s: Size = 0.0
    """Prefill: rate at which cached blocks were read from disk lately; 0: none were."""
    running: Count = 0
    """Decode: requests in the batch. Prefill: jobs that it computes, 0 or 1."""
    slots: Count = 0
    """Decode: how many requests may hold one at once."""
    waiting: Count = 0
    """Decode: other accepted requests, which wait for their KV or for a slot."""
    waiting_limit: Count = 0
    """Decode: most requests that may wait; more are refused."""
    step_points: Points = ()
    """Decode: observed (requests in the batch, seconds of a step) in rising order."""
    output_tokens: Size = 0.0
    """Decode: mean length of the last answers; 0 while there is none."""
    cache_usage: Share | None = None
    """Share of the memory for KV that is taken: decode: by requests; prefill: by cached prefixes. None: it does not say."""
    movable: bool = False
    """True if it becomes a worker of the other role when told to."""
    draining: bool = False

    def __post_init__(self) -> None:
        for name in ("prefill_points", "kv_points", "step_points"):
            check_rising(name, getattr(self, name))

    @property
    def key(self) -> str:
        return f"{self.site}.{self.role}.{self.worker}"


class PrefillReadiness(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A prefill worker -> dispatcher of its own site: whether it would begin a job now. Said at every change, and again and
    again; a silent worker gets no job."""

    worker: SubjectToken
    incarnation: Label
    """Names the process: a new one has taken nothing."""
    model: Label
    ready: bool
    taken: Count
    """Jobs that this process has taken from its own queue so far."""
    prefill_points: Points = ()
    """Observed (tokens, seconds) in rising order; read by capacity.observed.interpolated."""

    def __post_init__(self) -> None:
        check_rising("prefill_points", self.prefill_points)


class QueueAnnounced(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Dispatcher of a site -> schedulers that place prompts there: the work before the next prompt, of all models together."""

    site: SubjectToken
    due_s: Seconds
    """Work of the jobs that wait and are to be in time, over all workers."""
    running_s: Seconds
    """Work left of the jobs that run, over all workers."""
    ready: Count
    """Workers that wait for a job."""


class BlocksChanged(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Blocks that a worker's prefix cache took in and gave up. A lost one costs a hit or a detour, never a wrong token: workers
    compare tokens, and the scheduler asks for BlocksHeld when the numbers have a gap."""

    site: SubjectToken
    worker: SubjectToken
    role: Role
    incarnation: Label
    """Names the process: a new one holds nothing."""
    sequence: Count
    """Counts from 1, without gaps within an incarnation."""
    stored: bytes = b""
    """Block hashes, packed like PlaceRequest.block_hashes: of those that came, and of those that moved between tiers."""
    on_disk: bytes = b""
    """One bit for each of `stored`, packed by kvcache.blocks.pack_flags: set where it has to be read from disk."""
    removed: bytes = b""


class BlocksHeld(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Reply to `subjects.held_blocks`: all that a worker's prefix cache holds, as of `sequence` (0: nothing has changed yet)."""

    incarnation: Label
    sequence: Count
    hashes: bytes
    on_disk: bytes = b""
    """One bit for each of `hashes`, as in BlocksChanged."""


class LinkEstimate(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A directed link as last measured. Put again every second; silence means that nothing is known of it any more."""

    source: SubjectToken
    destination: SubjectToken
    rtt_s: Seconds
    """The smallest of the last round trips: without queueing."""
    jitter_s: Seconds = 0.0
    goodput_bytes_per_s: Size
    """Rate that KV may count on: at most the link's egress budget."""
    samples: Count
    """Number of measurements behind the figures; 0: none yet."""
    confidence: Share = 1.0
    """0 to 1: how many of the last measurements of goodput there are, and agree."""
    age_s: Seconds = 0.0
    """Age of the last measurement of goodput."""
    retransmit_share: Share | None = None
    """Share of retransmitted segments on the site's leaf connections to the destination lately; None: not measured."""
    budget_bytes_per_s: Size | None = None
    """The link's egress budget; None: it has none."""
    sent_bytes_per_s: Size | None = None
    """Rate at which KV crossed it in the last seconds, by the workers' own counts; None: it is not said."""

    @property
    def key(self) -> str:
        return f"{self.source}.{self.destination}"


class Lease(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Leadership among the schedulers of a site: the one entry of the leader's bucket."""

    holder: SubjectToken
    incarnation: SubjectToken
    """Names the holder's process."""
    term: Count
    """Counts leaderships: a later one has a greater number."""
    released: bool = False
    """True when the holder leaves: another one may take the lease at once."""


class RoleChanging(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Reply to ChangeRole: the worker drains from now on. Its heartbeats say how it goes on."""


class RoleKept(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Reply to ChangeRole: the worker stays what it is."""

    reason: str


ChangeRoleReply = RoleChanging | RoleKept
