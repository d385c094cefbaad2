"""The secret of a pulled prefix's transfer, sealed by the prefill worker that asks for those of the holder's site.

Workers of one site seal with the site's own key. A worker that has a key neither asks nor answers in clear: what it has cached
may be of sealed jobs.
"""

import secrets

import msgspec

from prfaas.contracts.to_prefill import SendPrefix
from prfaas.contracts.wire import encode
from prfaas.sealing import author_seal
from prfaas.sealing.author_seal import SECRET_BYTES, SealError, key_ids
from prfaas.sealing.config import SealingConfig
from prfaas.sealing.job_seal import transfer_fields
from prfaas.sealing.keys import PrivateKey, PublicKey
from prfaas.sealing.site_keys import SiteKeys

_LABEL = b"prfaas pull 1"


class PullSeals:
    """Seals of the prefixes that one worker asks for or sends."""

    def __init__(self, site: str, config: SealingConfig) -> None:
        """Raises KeyFileError."""
        self._site = site
        self._keys = SiteKeys(config)

    def may_ask(self, holder_site: str) -> bool:
        """Tells whether there are keys for what the site would send, or none are needed."""
        return self._keys.own is None or holder_site == self._site or holder_site in self._keys.peers

    def seal(self, holder_site: str, ask: SendPrefix) -> tuple[SendPrefix, bytes | None]:
        """Returns the request and the secret of the frames that answer it; None where they come in clear."""
        if self._keys.own is None:
            return ask, None
        own = self._keys.own.read()[0]
        theirs = own.public if holder_site == self._site else self._keys.peers[holder_site].read()[0]
        secret = secrets.token_bytes(SECRET_BYTES)
        return seal(own, theirs, ask, secret), secret

    def open(self, ask: SendPrefix) -> bytes | None:
        """Returns the secret to seal the frames with; None to send them in clear. Raises SealError."""
        if self._keys.own is None:
            if ask.sealed:
                raise SealError("what is asked for is to be sealed, and this worker has no key")
            return None
        if not ask.sealed:
            raise SealError("this worker sends sealed prefixes only")
        for_id, by_id = key_ids(ask.sealed)
        own, theirs = self._keys.own.find(for_id), self._find(ask.asking_site, by_id)
        if own is None or theirs is None:
            raise SealError("the request is sealed with a key that this worker does not hold")
        return unseal(own, theirs, ask)

    def _find(self, site: str, key_id: bytes) -> PublicKey | None:
        if site == self._site:
            own = None if self._keys.own is None else self._keys.own.find(key_id)
            return None if own is None else own.public
        peer = self._keys.peers.get(site)
        return None if peer is None else peer.find(key_id)


def seal(own: PrivateKey, theirs: PublicKey, ask: SendPrefix, secret: bytes) -> SendPrefix:
    return msgspec.structs.replace(ask, sealed=author_seal.seal(own, theirs, _LABEL, _open_fields(ask), secret))


def unseal(own: PrivateKey, theirs: PublicKey, ask: SendPrefix) -> bytes:
    """Returns the secret that `theirs` sealed for `own`. Raises SealError."""
    secret = author_seal.unseal(own, theirs, _LABEL, _open_fields(ask), ask.sealed)
    if len(secret) != SECRET_BYTES:
        raise SealError(f"the request has a secret of {len(secret)} bytes, expected {SECRET_BYTES}")
    return secret


def _open_fields(ask: SendPrefix) -> bytes:
    return encode((*transfer_fields(ask.transfer), ask.asking_site, ask.hashes, ask.proofs, ask.timeout_s))
