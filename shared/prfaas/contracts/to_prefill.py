"""Messages that a prefill worker receives: jobs from its site's work queue, cancellations, and its part of a link."""

from typing import Annotated

import msgspec
from msgspec import Meta

from prfaas.contracts.fields import Count, Id, Label, Seconds, Size, Subject, SubjectToken
from prfaas.contracts.kv import KVTransfer, PrefixSource

BACKGROUND_PRIORITY = -1
LEASE_S = 1.0
"""Duration of a lease, counted from the question for it."""
ALONE_AFTER_S = 2.5 * LEASE_S
"""Silence of the probe after which a worker goes on with its own equal part. The probe notices a silent worker after LEASE_S;
another LEASE_S later every lease has ended that counted on it; the rest is for a question that was under way for long."""


class PrefillJob(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    request_id: Id
    model: Label
    transfer: KVTransfer
    token_ids: bytes
    """The tokens to prefill (`transfer.prefill_tokens` of them), packed by wire.pack_tokens. Empty in a sealed job."""
    reply_to: Subject
    """Subject for PrefillProgress."""
    decode_site: SubjectToken
    tenant: Label = ""
    """Links are shared fairly between tenants. Empty: all requests without a tenant of their own."""
    cache_scope: Label = ""
    """Name of those who share cached prefixes: prompts of two scopes never meet."""
    timeout_s: Seconds
    """Counted from the moment the queue stored the job: later the job is useless."""
    worker: SubjectToken | None = None
    """Worker whose cache holds the prompt's prefix. The job may wait for it; any other worker of the model can run it too."""
    priority: Annotated[int, Meta(ge=-1, le=0)] = 0
    """BACKGROUND_PRIORITY: it runs when no other job waits."""
    admitted: bool = False
    """The queue may put it off, but not refuse it any more: another attempt, or an answer that goes on elsewhere."""
    waited_s: Seconds = 0.0
    """Time that the job spent in the site's queue before it was put into its worker's; part of its age."""
    pull: PrefixSource | None = None
    """Source from which the worker may pull the prompt's prefix, if it does not have it. It never has to."""
    sealed: bytes = b""
    """JobSecret for the prefill site's workers alone, made by sealing.job_seal; empty in a plain job."""


class JobSecret(msgspec.Struct, frozen=True, kw_only=True):
    """Part of a sealed job that only the two workers know."""

    token_ids: bytes
    tenant: Label = ""
    cache_scope: Label = ""
    kv_secret: bytes = b""
    """Secret that both ends of the transfer derive its key from; empty where frames go in clear."""


class SendPrefix(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Request of a prefill worker that is to compute a prefix to one that has it. It is sent as a transfer of that length.

    The proofs stand for tokens and cache scope: who does not know both cannot ask for the KV, and what is found by a hash is
    sent only if it is theirs."""

    transfer: KVTransfer
    """`bucket` is the asking site's for pulls, `prefill_tokens` the whole prefix, `from_token` the blocks that the asking worker
    has."""
    asking_site: SubjectToken
    hashes: bytes
    """Hashes of the prefix's blocks, packed, made by kvcache.blocks.block_hashes."""
    proofs: bytes
    """Their proofs, one after another, made by kvcache.blocks.block_proofs."""
    timeout_s: Seconds
    """Time after which the answer is of no use."""
    sealed: bytes = b""
    """The transfer's secret for the holder's site, made by sealing.pull_seal; empty where frames go in clear."""


class PrefixComing(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Reply to SendPrefix: the frames are on their way."""


class PrefixRefused(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Reply to SendPrefix."""

    reason: Label


SendPrefixReply = PrefixComing | PrefixRefused


class DispatcherHere(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Reply to PrefillReadiness: the site has a dispatcher, so the worker takes no job that is not dispatched to it."""

    outstanding: Count
    """Jobs that are on their way to the worker: dispatched, and not among those that it says it has taken."""


class CancelPrefill(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    transfer_id: Id
    attempt: Count
    """Last attempt to cancel; those before it are cancelled too."""


class EgressLease(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Reply to EgressAsked: what one process may send on one link for the next LEASE_S seconds."""

    bytes_per_s: Size | None
    """None: the link has no budget."""
    alone_bytes_per_s: Size | None
    """Rate allowed after ALONE_AFTER_S without an answer: the worker's equal part of the budget. None: any rate."""
    share: Annotated[float, Meta(gt=0, le=1)]
    """Share of the link's window, above 0 to 1."""
    ask_again_s: Annotated[float, Meta(ge=0.001, le=60)]
    goodput_bytes_per_s: Size | None = None
    """The whole link's goodput, as the probe knows it."""
    rtt_s: Seconds | None = None
