"""Terms that both ends of a KV transfer agree on before the first byte."""

import msgspec

from prfaas.contracts.fields import Count, Id, Label, SubjectToken


class KVTransfer(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt to move one request's cache. Each attempt has an object of its own, so frames never mix."""

    transfer_id: Id
    attempt: Count
    bucket: SubjectToken
    """Object-store bucket of the decode site."""
    nuid: SubjectToken
    """Names the chunk subject `$O.<bucket>.C.<nuid>`."""
    prefill_tokens: Count
    """Tokens that are prefilled: all prompt tokens but the last, which the decode worker computes itself."""
    from_token: Count = 0
    """First token that full layers ship: the decode worker has those before it from an earlier prompt. A multiple of the block
    size. Sliding and recurrent layers always ship all that is needed."""
    lossy: bool = False
    """True if the decode worker installs frames of a lossy codec too."""
    fingerprint: Label
    """Digest of model, weights, dtype and KV layout; a mismatch is refused before any byte is installed."""

    @property
    def object_name(self) -> str:
        return f"{self.transfer_id}.{self.attempt}"


class KVStored(msgspec.Struct, frozen=True, kw_only=True):
    """Reply to `subjects.kv_stored`: what the decode site's server holds of an object, when fast ingest has forgotten it."""

    frames: Count
    stream_sequence: Count
    """Stream sequence of the last frame; 0 without one."""
