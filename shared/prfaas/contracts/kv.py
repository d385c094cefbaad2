"""KV transfers: what both ends agree on before the first byte, and the report of how one went."""

import msgspec

from prfaas.contracts.fields import Bucket, Count, Id, Label, Marks, Seconds, SubjectToken


class KVTransfer(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt to move one request's cache. Each attempt has an object of its own, so frames never mix."""

    transfer_id: Id
    attempt: Count
    bucket: Bucket
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
    direct_inbox: SubjectToken | None = None
    """Name under which the decode worker's process takes small KV of its own site in messages, past the object; None: it takes
    this one from the object."""

    @property
    def object_name(self) -> str:
        return f"{self.transfer_id}.{self.attempt}"


class PrefixSource(msgspec.Struct, frozen=True, kw_only=True):
    """Worker that has a prompt's prefix, which the one that prefills may pull instead of computing it."""

    site: SubjectToken
    worker: SubjectToken
    tokens: Count
    """Tokens of the prefix, whole blocks."""
    timeout_s: Seconds
    """Time after which the pull is late, and the prefix is computed."""


class KVStored(msgspec.Struct, frozen=True, kw_only=True):
    """Part of an object that the decode site's server holds, when fast ingest has forgotten it."""

    frames: Count
    stream_sequence: Count
    """Stream sequence of the last frame; 0 without one."""


class KVTaken(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of a decode worker's inbox to the sender of small KV. Neither of the two: it is not taken, or not any more."""

    verified: bool = False
    incomplete: bool = False
    """True if frames are missing: all that were sent have been read."""


class TransferReport(msgspec.Struct, frozen=True, kw_only=True):
    """Report on one attempt's KV. Filled by the receiving end, and carried untouched to spans, metrics and the client; of a
    failed attempt: what had come until then."""

    bytes: int = 0
    """KV bytes received and checked, decoded, without headers."""
    saved_bytes: int = 0
    """KV bytes that the decode worker had from an earlier prompt, so that they did not come."""
    reused_tokens: int = 0
    """Prompt tokens whose KV in full layers `saved_bytes` are."""
    cached_tokens: int = 0
    """Prompt tokens whose KV the prefill worker took from its cache; known once the manifest has come."""
    frames: int = 0
    lossy_frames: int = 0
    """Frames, counted in `frames`, that came in 8 bits: the answer may differ a little from one without."""
    attempts: int = 0
    """Attempts of the request up to this one."""
    duration_s: float = 0.0
    """First frame to the last accepted one."""
    arrival: Marks = ()
    """(seconds since the first frame, KV bytes come by then)."""
