"""A request for a cached prefix, checked. Pure."""

from typing import NamedTuple

from prfaas.contracts import subjects
from prfaas.contracts.to_prefill import SendPrefix
from prfaas.contracts.wire import BadMessageError
from prfaas.engine.protocol import EngineDescription
from prfaas.kvcache.blocks import PROOF_BYTES, unpack_hashes


class Asked(NamedTuple):
    hashes: list[int]
    proofs: list[bytes]
    first_block: int
    """First block that full layers are to send."""


def check_request(ask: SendPrefix, asking_site: str, own_site: str, description: EngineDescription) -> Asked:
    """`asking_site`: from the subject, on which servers let that site's prefill workers alone ask. Raises BadMessageError."""
    transfer, block_tokens = ask.transfer, description.chunk_tokens
    if ask.asking_site != asking_site:
        raise BadMessageError(f"the request is of site {ask.asking_site!r}, and came from site {asking_site!r}")
    if transfer.bucket != (expected := subjects.pull_bucket(asking_site, own_site)):
        raise BadMessageError(f"the prefix is to go to bucket {transfer.bucket!r}, expected {expected!r}")
    if transfer.fingerprint != description.fingerprint:
        raise BadMessageError(f"this worker's KV has fingerprint {description.fingerprint}, not {transfer.fingerprint}")
    try:
        hashes = list(unpack_hashes(ask.hashes))
    except ValueError as error:
        raise BadMessageError(str(error)) from error
    if not hashes or len(ask.proofs) != PROOF_BYTES * len(hashes):
        raise BadMessageError(f"{len(hashes)} hashes came with {len(ask.proofs)} bytes of proofs, of {PROOF_BYTES} each")
    if transfer.prefill_tokens != len(hashes) * block_tokens or transfer.prefill_tokens > description.max_context_tokens:
        raise BadMessageError(f"{len(hashes)} blocks of {block_tokens} tokens came for a prefix of {transfer.prefill_tokens}")
    if transfer.from_token % block_tokens or not transfer.from_token < transfer.prefill_tokens:
        raise BadMessageError(f"the transfer begins at token {transfer.from_token} of {transfer.prefill_tokens}")
    proofs = [ask.proofs[start : start + PROOF_BYTES] for start in range(0, len(ask.proofs), PROOF_BYTES)]
    return Asked(hashes, proofs, transfer.from_token // block_tokens)
