"""A job's secret part, sealed by a decode worker for the prefill workers of one site.

HPKE (RFC 9180: X25519, HKDF-SHA256, AES-256-GCM) hides it from all but holders of the prefill site's private key. A MAC within,
by a key that the two sites' key pairs share, shows that a decode worker of the named site made it. Both cover the job's open
fields, so none of them can be changed on the way, nor the secret part be used with another job.
"""

import secrets
from collections.abc import Mapping
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from prfaas.contracts.kv import KVTransfer
from prfaas.contracts.to_prefill import JobSecret, PrefillJob
from prfaas.contracts.wire import BadMessageError, decode, encode
from prfaas.sealing.config import SealingConfig
from prfaas.sealing.keys import KEY_ID_BYTES, KeyFile, PrivateKey, PublicKey

SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_LABEL = b"prfaas prefill job 1"
MAC_BYTES = 32
HEAD_BYTES = 2 * KEY_ID_BYTES
SECRET_BYTES = 32


class SealError(BadMessageError):
    """Raised for a job that is not sealed as it should be, by whom it says, or as a whole."""


class JobSeals:
    """Keys of one worker's site and of the sites that it shares sealed jobs with."""

    def __init__(self, config: SealingConfig) -> None:
        """Raises KeyFileError."""
        self._own = KeyFile(Path(config.private_key_file), PrivateKey.parse) if config.private_key_file else None
        self._peers: Mapping[str, KeyFile[PublicKey]] = {
            site: KeyFile(Path(path), PublicKey.parse) for site, path in config.peers.items()
        }

    def new_secret(self, prefill_site: str) -> bytes | None:
        """Returns the secret that a transfer's frames are sealed with; None where its site's jobs are not sealed."""
        return secrets.token_bytes(SECRET_BYTES) if prefill_site in self._peers else None

    def seal(self, prefill_site: str, job: PrefillJob, kv_secret: bytes) -> PrefillJob:
        """Returns the job with prompt, tenant, cache scope and the transfer's secret sealed for the site."""
        assert self._own is not None, "checked by SealingConfig"
        own, theirs = self._own.read()[0], self._peers[prefill_site].read()[0]
        return seal(own, theirs, job, kv_secret)

    def open(self, job: PrefillJob) -> JobSecret:
        """Returns the job's secret part, or what a plain job says openly. Raises SealError."""
        peer = self._peers.get(job.decode_site)
        if peer is None:
            if job.sealed:
                raise SealError(f"the job is sealed, and this worker has no key of site {job.decode_site}")
            return JobSecret(token_ids=job.token_ids, tenant=job.tenant, cache_scope=job.cache_scope)
        if not job.sealed:
            raise SealError(f"the job is not sealed, and this worker takes sealed ones only from site {job.decode_site}")
        assert self._own is not None, "checked by SealingConfig"
        own = self._own.find(job.sealed[:KEY_ID_BYTES])
        theirs = peer.find(job.sealed[KEY_ID_BYTES:HEAD_BYTES])
        if own is None or theirs is None:
            raise SealError("the job is sealed with a key that this worker does not hold")
        return unseal(own, theirs, job)


def seal(own: PrivateKey, theirs: PublicKey, job: PrefillJob, kv_secret: bytes) -> PrefillJob:
    """Returns the job with its secret part sealed by `own` for `theirs`."""
    secret = JobSecret(token_ids=job.token_ids, tenant=job.tenant, cache_scope=job.cache_scope, kv_secret=kv_secret)
    head = theirs.key_id + own.key_id
    bound = _LABEL + head + _open_fields(job)
    body = encode(secret)
    sealed = SUITE.encrypt(author_mac(own, theirs, bound, body).finalize() + body, theirs.key, bound)
    return msgspec.structs.replace(job, token_ids=b"", tenant="", cache_scope="", sealed=head + sealed)


def unseal(own: PrivateKey, theirs: PublicKey, job: PrefillJob) -> JobSecret:
    """Returns the secret part of a job that `theirs` sealed for `own`. Raises SealError."""
    bound = _LABEL + job.sealed[:HEAD_BYTES] + _open_fields(job)
    try:
        plain = SUITE.decrypt(job.sealed[HEAD_BYTES:], own.key, bound)
        body = plain[MAC_BYTES:]
        author_mac(own, theirs, bound, body).verify(plain[:MAC_BYTES])
    except (InvalidTag, InvalidSignature, ValueError):
        raise SealError("the job's seal is broken: it was changed on the way, or is not of the site that it names") from None
    if job.token_ids or job.tenant or job.cache_scope:
        raise SealError("the job is sealed, and has a prompt, tenant or cache scope beside its seal")
    secret = decode(body, JobSecret)
    if len(secret.kv_secret) != SECRET_BYTES:
        raise SealError(f"the job's transfer has a secret of {len(secret.kv_secret)} bytes, expected {SECRET_BYTES}")
    return secret


def author_mac(own: PrivateKey, theirs: PublicKey, bound: bytes, body: bytes) -> hmac.HMAC:
    """Returns the MAC that only holders of one of the two sites' keys can make."""
    shared = HKDF(hashes.SHA256(), 32, salt=None, info=b"prfaas author of prefill jobs 1").derive(own.key.exchange(theirs.key))
    mac = hmac.HMAC(shared, hashes.SHA256())
    mac.update(len(bound).to_bytes(8, "little"))
    mac.update(bound)
    mac.update(body)
    return mac


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
    return (
        *(transfer.transfer_id, transfer.attempt, transfer.bucket, transfer.nuid, transfer.prefill_tokens),
        *(transfer.from_token, transfer.lossy, transfer.fingerprint),
    )
