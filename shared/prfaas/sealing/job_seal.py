"""A job's secret part, sealed by a decode worker for the prefill workers of one site, with all of the job's open fields."""

import secrets

import msgspec

from prfaas.contracts.kv import KVTransfer
from prfaas.contracts.to_prefill import JobSecret, PrefillJob
from prfaas.contracts.wire import decode, encode
from prfaas.sealing import author_seal
from prfaas.sealing.author_seal import SECRET_BYTES, SealError, key_ids
from prfaas.sealing.config import SealingConfig
from prfaas.sealing.keys import PrivateKey, PublicKey
from prfaas.sealing.site_keys import SiteKeys

_LABEL = b"prfaas prefill job 1"


class JobSeals:
    """Seals of the jobs that one worker sends or takes."""

    def __init__(self, config: SealingConfig) -> None:
        """Raises KeyFileError."""
        self._keys = SiteKeys(config)

    def new_secret(self, prefill_site: str) -> bytes | None:
        """Returns the secret that a transfer's frames are sealed with; None where its site's jobs are not sealed."""
        return secrets.token_bytes(SECRET_BYTES) if prefill_site in self._keys.peers else None

    def seal(self, prefill_site: str, job: PrefillJob, kv_secret: bytes) -> PrefillJob:
        """Returns the job with prompt, tenant, cache scope and the transfer's secret sealed for the site."""
        assert self._keys.own is not None, "checked by SealingConfig"
        own, theirs = self._keys.own.read()[0], self._keys.peers[prefill_site].read()[0]
        return seal(own, theirs, job, kv_secret)

    def open(self, job: PrefillJob) -> JobSecret:
        """Returns the job's secret part, or what a plain job says openly. Raises SealError."""
        peer = self._keys.peers.get(job.decode_site)
        if peer is None:
            if job.sealed:
                raise SealError(f"the job is sealed, and this worker has no key of site {job.decode_site}")
            return JobSecret(token_ids=job.token_ids, tenant=job.tenant, cache_scope=job.cache_scope)
        if not job.sealed:
            raise SealError(f"the job is not sealed, and this worker takes sealed ones only from site {job.decode_site}")
        assert self._keys.own is not None, "checked by SealingConfig"
        for_id, by_id = key_ids(job.sealed)
        own, theirs = self._keys.own.find(for_id), peer.find(by_id)
        if own is None or theirs is None:
            raise SealError("the job is sealed with a key that this worker does not hold")
        return unseal(own, theirs, job)


def seal(own: PrivateKey, theirs: PublicKey, job: PrefillJob, kv_secret: bytes) -> PrefillJob:
    """Returns the job with its secret part sealed by `own` for `theirs`."""
    secret = JobSecret(token_ids=job.token_ids, tenant=job.tenant, cache_scope=job.cache_scope, kv_secret=kv_secret)
    sealed = author_seal.seal(own, theirs, _LABEL, _open_fields(job), encode(secret))
    return msgspec.structs.replace(job, token_ids=b"", tenant="", cache_scope="", sealed=sealed)


def unseal(own: PrivateKey, theirs: PublicKey, job: PrefillJob) -> JobSecret:
    """Returns the secret part of a job that `theirs` sealed for `own`. Raises SealError."""
    body = author_seal.unseal(own, theirs, _LABEL, _open_fields(job), job.sealed)
    if job.token_ids or job.tenant or job.cache_scope:
        raise SealError("the job is sealed, and has a prompt, tenant or cache scope beside its seal")
    secret = decode(body, JobSecret)
    if len(secret.kv_secret) != SECRET_BYTES:
        raise SealError(f"the job's transfer has a secret of {len(secret.kv_secret)} bytes, expected {SECRET_BYTES}")
    return secret


def _open_fields(job: PrefillJob) -> bytes:
    """Every open field but `waited_s`, which the dispatcher sets: it can only make a job older than it is.

    By name: a later version's new fields change nothing of what this one checks."""
    fields = (
        *(job.request_id, job.model, job.reply_to, job.decode_site, job.timeout_s),
        *(job.worker, job.priority, job.admitted),
        *transfer_fields(job.transfer),
    )
    # Left out where it says nothing, so that workers of the version before take the jobs of this one.
    return encode(fields if (pull := job.pull) is None else (*fields, pull.site, pull.worker, pull.tokens, pull.timeout_s))


def transfer_fields(transfer: KVTransfer) -> tuple[str | int | bool, ...]:
    """Every field but `direct_inbox`: which of two ways sealed frames take decides nothing of what they are, and workers of the
    version before open the jobs of this one."""
    return (
        *(transfer.transfer_id, transfer.attempt, transfer.bucket, transfer.nuid, transfer.prefill_tokens),
        *(transfer.from_token, transfer.lossy, transfer.fingerprint),
    )
