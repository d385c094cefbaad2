"""The secret of a pulled prefix's transfer, sealed by the prefill worker that asks for those of the holder's site.

As a job is (`job_seal.py`): HPKE hides it, a MAC within shows its author, and both cover all that is asked for. Workers of one
site seal with the site's own key. A worker that has a key neither asks nor answers in clear: what it has cached may be of
sealed jobs.
"""

import secrets
from collections.abc import Mapping
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature, InvalidTag

from prfaas.contracts.to_prefill import SendPrefix
from prfaas.contracts.wire import encode
from prfaas.sealing.config import SealingConfig
from prfaas.sealing.job_seal import HEAD_BYTES, MAC_BYTES, SECRET_BYTES, SUITE, SealError, author_mac, transfer_fields
from prfaas.sealing.keys import KEY_ID_BYTES, KeyFile, PrivateKey, PublicKey

_LABEL = b"prfaas pull 1"


class PullSeals:
    """Keys of one worker's site and of the sites that it shares sealed prefixes with."""

    def __init__(self, site: str, config: SealingConfig) -> None:
        """Raises KeyFileError."""
        self._site = site
        self._own = KeyFile(Path(config.private_key_file), PrivateKey.parse) if config.private_key_file else None
        self._peers: Mapping[str, KeyFile[PublicKey]] = {
            peer: KeyFile(Path(path), PublicKey.parse) for peer, path in config.peers.items()
        }

    def may_ask(self, holder_site: str) -> bool:
        """Tells whether there are keys for what the site would send, or none are needed."""
        return self._own is None or holder_site == self._site or holder_site in self._peers

    def seal(self, holder_site: str, ask: SendPrefix) -> tuple[SendPrefix, bytes | None]:
        """Returns the request and the secret of the frames that answer it; None where they come in clear."""
        if self._own is None:
            return ask, None
        own = self._own.read()[0]
        theirs = own.public if holder_site == self._site else self._peers[holder_site].read()[0]
        secret = secrets.token_bytes(SECRET_BYTES)
        return seal(own, theirs, ask, secret), secret

    def open(self, ask: SendPrefix) -> bytes | None:
        """Returns the secret to seal the frames with; None to send them in clear. Raises SealError."""
        if self._own is None:
            if ask.sealed:
                raise SealError("what is asked for is to be sealed, and this worker has no key")
            return None
        if not ask.sealed:
            raise SealError("this worker sends sealed prefixes only")
        own = self._own.find(ask.sealed[:KEY_ID_BYTES])
        theirs = self._find(ask.asking_site, ask.sealed[KEY_ID_BYTES:HEAD_BYTES])
        if own is None or theirs is None:
            raise SealError("the request is sealed with a key that this worker does not hold")
        return unseal(own, theirs, ask)

    def _find(self, site: str, key_id: bytes) -> PublicKey | None:
        if site == self._site:
            own = None if self._own is None else self._own.find(key_id)
            return None if own is None else own.public
        peer = self._peers.get(site)
        return None if peer is None else peer.find(key_id)


def seal(own: PrivateKey, theirs: PublicKey, ask: SendPrefix, secret: bytes) -> SendPrefix:
    head = theirs.key_id + own.key_id
    bound = _LABEL + head + _open_fields(ask)
    sealed = SUITE.encrypt(author_mac(own, theirs, bound, secret).finalize() + secret, theirs.key, bound)
    return msgspec.structs.replace(ask, sealed=head + sealed)


def unseal(own: PrivateKey, theirs: PublicKey, ask: SendPrefix) -> bytes:
    """Returns the secret that `theirs` sealed for `own`. Raises SealError."""
    bound = _LABEL + ask.sealed[:HEAD_BYTES] + _open_fields(ask)
    try:
        plain = SUITE.decrypt(ask.sealed[HEAD_BYTES:], own.key, bound)
        secret = plain[MAC_BYTES:]
        author_mac(own, theirs, bound, secret).verify(plain[:MAC_BYTES])
    except (InvalidTag, InvalidSignature, ValueError):
        raise SealError("the request's seal is broken: it was changed on the way, or is not of the site that it names") from None
    if len(secret) != SECRET_BYTES:
        raise SealError(f"the request has a secret of {len(secret)} bytes, expected {SECRET_BYTES}")
    return secret


def _open_fields(ask: SendPrefix) -> bytes:
    return encode((*transfer_fields(ask.transfer), ask.asking_site, ask.hashes, ask.proofs, ask.timeout_s))
