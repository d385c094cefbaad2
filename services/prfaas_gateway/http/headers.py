"""Headers of requests, checked."""

import math

from starlette.datastructures import Headers

from prfaas.contracts.codes import FailureCode
from prfaas.process.request_ids import MAX_REQUEST_ID_CHARS, REQUEST_ID_HEADER, is_request_id
from prfaas_gateway.openai.errors import invalid


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


def authorization_of(headers: Headers) -> str:
    """Returns the header `Authorization`, or what it would be for a key in `x-api-key`, as Anthropic's clients send it."""
    if (authorization := headers.get("authorization")) is not None:
        return authorization
    key = headers.get("x-api-key")
    return "" if key is None else f"Bearer {key}"


def header_value(text: str) -> str:
    """Returns a sentence as a header's value: one line of ASCII, at most 500 characters, since proxies bound headers."""
    return "".join(char if char.isascii() and char.isprintable() else "?" for char in text)[:500].strip()
