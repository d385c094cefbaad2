"""What clients say in headers, checked."""

import hashlib
import hmac
import math
import uuid
from collections.abc import Iterable

from starlette.datastructures import Headers

from prfaas.contracts.codes import FailureCode
from prfaas_gateway.openai.errors import invalid, unauthorized


class ApiKeys:
    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def check(self, headers: Headers) -> str:
        """The key's tenant: a short name that does not tell the key, and is the same at every gateway. Without configured keys
        everybody may ask, and is the tenant "". Raises ApiError 401."""
        if not self._digests:
            return ""
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise unauthorized("No API key was given; send it as `Authorization: Bearer KEY`.")
        given = _digest(key.strip())
        # All are compared, and by digest: the time taken tells nothing about any key.
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        if not any(matches):
            raise unauthorized("The API key is not known here.")
        return hashlib.blake2b(given, digest_size=6, person=b"prfaas tenant").hexdigest()


def request_id_of(headers: Headers) -> str:
    """`X-Request-ID`, which is echoed, or a new one. Raises ApiError."""
    given = headers.get("x-request-id")
    if given is None:
        return uuid.uuid4().hex
    if not (0 < len(given) <= 256 and given.isascii() and given.isprintable()):
        raise invalid("`X-Request-ID` must be 1 to 256 printable ASCII characters.", "x-request-id", FailureCode.INVALID_VALUE)
    return given


def ttft_deadline_of(headers: Headers, default_s: float, max_s: float) -> float:
    """`x-prfaas-ttft-deadline-s`. Raises ApiError."""
    name = "x-prfaas-ttft-deadline-s"
    given = headers.get(name)
    if given is None:
        return default_s
    try:
        deadline_s = float(given)
    except ValueError:
        deadline_s = math.nan
    if not 0 < deadline_s <= max_s:
        raise invalid(f"`{name}` must be a number of seconds, above 0 and at most {max_s:g}.", name, FailureCode.INVALID_VALUE)
    return deadline_s


def header_value(text: str) -> str:
    """A sentence as a header: one line of ASCII, not too long for proxies."""
    return "".join(char if char.isascii() and char.isprintable() else "?" for char in text)[:500].strip()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
