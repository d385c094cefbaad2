"""Seal of a body by one site for another one, which shows its author.

HPKE (RFC 9180: X25519, HKDF-SHA256, AES-256-GCM) hides the body from all but holders of the other site's private key. A MAC
within, by a key that the two sites' key pairs share, shows that the named site made it. Both cover the open fields that the body
belongs to, so none of them can be changed on the way, nor the body be used with others.
"""

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from prfaas.contracts.wire import BadMessageError
from prfaas.sealing.keys import KEY_ID_BYTES, PrivateKey, PublicKey

SECRET_BYTES = 32
_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_MAC_BYTES = 32
_HEAD_BYTES = 2 * KEY_ID_BYTES


class SealError(BadMessageError):
    """Raised for what is not sealed as it should be, by whom it says, or as a whole."""


def key_ids(sealed: bytes) -> tuple[bytes, bytes]:
    """Returns the ids of the keys that it was sealed for and by, in whatever bytes."""
    return sealed[:KEY_ID_BYTES], sealed[KEY_ID_BYTES:_HEAD_BYTES]


def seal(own: PrivateKey, theirs: PublicKey, label: bytes, open_fields: bytes, body: bytes) -> bytes:
    """Returns the body sealed by `own` for `theirs`. `label`: what is sealed, so that nothing passes for something else."""
    head = theirs.key_id + own.key_id
    bound = label + head + open_fields
    return head + _SUITE.encrypt(_mac(own, theirs, bound, body).finalize() + body, theirs.key, bound)


def unseal(own: PrivateKey, theirs: PublicKey, label: bytes, open_fields: bytes, sealed: bytes) -> bytes:
    """Returns the body that `theirs` sealed for `own`. Raises SealError."""
    bound = label + sealed[:_HEAD_BYTES] + open_fields
    try:
        plain = _SUITE.decrypt(sealed[_HEAD_BYTES:], own.key, bound)
        body = plain[_MAC_BYTES:]
        _mac(own, theirs, bound, body).verify(plain[:_MAC_BYTES])
    except (InvalidTag, InvalidSignature, ValueError):
        raise SealError("the seal is broken: it was changed on the way, or is not of the site that it names") from None
    return body


def _mac(own: PrivateKey, theirs: PublicKey, bound: bytes, body: bytes) -> hmac.HMAC:
    """Returns the MAC that only holders of one of the two sites' keys can make."""
    shared = HKDF(hashes.SHA256(), 32, salt=None, info=b"prfaas author of prefill jobs 1").derive(own.key.exchange(theirs.key))
    mac = hmac.HMAC(shared, hashes.SHA256())
    mac.update(len(bound).to_bytes(8, "little"))
    mac.update(bound)
    mac.update(body)
    return mac
