"""Messages that a prefill worker receives: jobs from its site's work queue, cancellations, and its part of a link."""

import msgspec

from prfaas.contracts.kv import KVTransfer

LEASE_S = 1.0
"""Duration of a lease, counted from the question for it."""
ALONE_AFTER_S = 2.5 * LEASE_S
"""Silence of the probe after which a worker goes on with its own equal part. The probe notices a silent worker after LEASE_S;
another LEASE_S later every lease has ended that counted on it; the rest is for a question that was under way for long."""


class PrefillJob(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    request_id: str
    model: str
    transfer: KVTransfer
    token_ids: bytes
    """The tokens to prefill (`transfer.prefill_tokens` of them), packed by wire.pack_tokens."""
    reply_to: str
    """Subject for PrefillProgress."""
    decode_site: str
    tenant: str = ""
    """Links are shared fairly between tenants. Empty: all requests without a tenant of their own."""
    timeout_s: float
    """Counted from the moment the queue stored the job: later the job is useless."""


class CancelPrefill(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    transfer_id: str
    attempt: int
    """Last attempt to cancel; those before it are cancelled too."""


class EgressLease(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Reply to EgressAsked: what one process may send on one link for the next LEASE_S seconds."""

    bytes_per_s: float | None
    """None: the link has no budget."""
    alone_bytes_per_s: float | None
    """Rate allowed after ALONE_AFTER_S without an answer: the worker's equal part of the budget. None: any rate."""
    share: float
    """Share of the link's window, above 0 to 1."""
    ask_again_s: float
    goodput_bytes_per_s: float | None = None
    """The whole link's goodput, as the probe knows it."""
    rtt_s: float | None = None
