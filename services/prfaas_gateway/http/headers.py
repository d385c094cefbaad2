"""Headers of requests, checked."""

import hashlib
import hmac
import math
from collections.abc import Iterable

from starlette.datastructures import Headers

from prfaas.contracts.codes import FailureCode
from prfaas.process.request_ids import MAX_REQUEST_ID_CHARS, REQUEST_ID_HEADER, is_request_id
from prfaas_gateway.openai.errors import invalid, unauthorized


class ApiKeys:
    """The keys that clients may use, as digests."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def check(self, headers: Headers) -> str:
        """Returns the key's tenant: a short name that does not tell the key and is the same at every gateway.

        The tenant is "" where no keys are configured: all clients may ask then. Raises ApiError 401."""
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


def check_request_id(headers: Headers) -> None:
    """Raises ApiError for an `X-Request-ID` that cannot be echoed."""
    given = headers.get(REQUEST_ID_HEADER)
    if given is not None and not is_request_id(given):
        message = f"`X-Request-ID` must be 1 to {MAX_REQUEST_ID_CHARS} printable ASCII characters."
        raise invalid(message, REQUEST_ID_HEADER, FailureCode.INVALID_VALUE)


def ttft_deadline_of(headers: Headers, default_s: float, max_s: float) -> float:
    """Returns `x-prfaas-ttft-deadline-s`, or the default. Raises ApiError."""
    name = "x-prfaas-ttft-deadline-s"
    given = headers.get(name)
    if given is None:
        return default_s
    try:
        timeout_s = float(given)
    except ValueError:
        timeout_s = math.nan
    if not 0 < timeout_s <= max_s:
        raise invalid(f"`{name}` must be a number of seconds, above 0 and at most {max_s:g}.", name, FailureCode.INVALID_VALUE)
    return timeout_s


def header_value(text: str) -> str:
    """Returns a sentence as a header's value: one line of ASCII, at most 500 characters, since proxies bound headers."""
    return "".join(char if char.isascii() and char.isprintable() else "?" for char in text)[:500].strip()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
