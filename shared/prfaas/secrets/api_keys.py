"""API keys: made here with 256 random bits, and kept by servers as SHA-256 only.

A slow hash such as scrypt protects what people choose and others may guess. A key of 256 random bits cannot be guessed, and a
slow hash in front of every request would let clients without a key burn the gateway's CPU. So keys of other forms are refused.
"""

import hashlib
import hmac
import re
import secrets
from typing import Final, NamedTuple

_PREFIX: Final = "sk-prfaas"
_SECRET_BYTES: Final = 32
_ID_BYTES: Final = 4
_FORM: Final = re.compile(rf"{_PREFIX}-(?P<id>[0-9a-f]{{{2 * _ID_BYTES}}})-[A-Za-z0-9_-]{{43}}")


class ApiKey(NamedTuple):
    """A key as its owner has it."""

    id: str
    """Public part: logs and lists show it."""
    text: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def matches(self, sha256: str) -> bool:
        """Compares in a time that tells nothing about the key."""
        return hmac.compare_digest(self.sha256, sha256)


def make_key() -> ApiKey:
    key_id = secrets.token_hex(_ID_BYTES)
    return ApiKey(key_id, f"{_PREFIX}-{key_id}-{secrets.token_urlsafe(_SECRET_BYTES)}")


def parse_key(text: str) -> ApiKey | None:
    """Returns None for text that is no key of ours."""
    form = _FORM.fullmatch(text)
    return ApiKey(form["id"], text) if form else None


def prefix_group_label(group: str) -> str:
    """Returns a short name of a group of tenants that share cached prefixes. It is never that of a tenant."""
    return hashlib.blake2b(group.encode(), digest_size=6, person=b"prefix group").hexdigest()


def tenant_label(tenant: str) -> str:
    """Returns a short name of a tenant that is the same at every gateway, for other sites: it does not show the tenant's name."""
    return hashlib.blake2b(tenant.encode(), digest_size=6, person=b"prfaas tenant").hexdigest()
