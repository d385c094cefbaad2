"""What a prefill worker hears: jobs from its site's work queue, and cancellations."""

import msgspec

from prfaas.contracts.kv import KVTransfer


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
    """Links are shared fairly between tenants. Empty: all who have no name of their own."""
    timeout_s: float
    """From the moment the queue stored the job: later it is of no use to anyone."""


class CancelPrefill(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    transfer_id: str
    attempt: int
    """This attempt and all before it."""
