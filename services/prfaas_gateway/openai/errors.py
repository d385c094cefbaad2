"""Errors of requests, in OpenAI's shape."""

import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from prfaas.contracts.codes import RETRY_STATUSES, FailureCode


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(msgspec.Struct, frozen=True, kw_only=True):
    error: ErrorBody


class ApiError(Exception):
    """An HTTP status and OpenAI's `{"error": {...}}`."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = ErrorBody(message=message, type=type, param=param, code=code)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        """Lets an error cross from the prompt process to the gateway."""
        return _api_error, (self.status, self.body, self.retry_after_s)

    def encode(self) -> bytes:
        return msgspec.json.encode(ErrorResponse(error=self.body))

    @property
    def headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        if self.status not in RETRY_STATUSES:
            # OpenAI's clients send a request again after any 5xx unless told not to.
            headers["x-should-retry"] = "false"
        if self.retry_after_s is not None:
            # The header counts whole seconds; rounding down would ask the client back too early.
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
        return headers


def _api_error(status: int, body: ErrorBody, retry_after_s: float | None) -> ApiError:
    return ApiError(status, body.message, type=body.type, param=body.param, code=body.code, retry_after_s=retry_after_s)


def renamed(error: ApiError, names: Mapping[str, str]) -> ApiError:
    """Returns the error with other names for fields, where an endpoint has its own for those of a chat."""
    # The longest first: the beginning of a name may be another one.
    name = re.compile(f"({'|'.join(map(re.escape, sorted(names, key=len, reverse=True)))})(?=$|[`.\\[])")

    def swap(match: re.Match[str]) -> str:
        return names[match[1]]

    body = error.body
    message = re.sub(f"`{name.pattern}", lambda match: f"`{swap(match)}", body.message)
    param = (
        body.param if body.param is None or (found := name.match(body.param)) is None else swap(found) + body.param[found.end() :]
    )
    return _api_error(error.status, msgspec.structs.replace(body, message=message, param=param), error.retry_after_s)


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def context_exceeded(context_tokens: int, prompt_has: str, param: str) -> ApiError:
    message = f"This model's context is {context_tokens} tokens and the prompt has {prompt_has}."
    return invalid(message, param, FailureCode.CONTEXT_LENGTH_EXCEEDED)


def unauthorized(message: str) -> ApiError:
    return ApiError(401, message, type="authentication_error", code=FailureCode.INVALID_API_KEY)


def unknown_model(model: str, known: list[str]) -> ApiError:
    message = f"The model `{model}` does not exist here; this endpoint serves {', '.join(f'`{name}`' for name in known)}."
    return ApiError(404, message, param="model", code=FailureCode.MODEL_NOT_FOUND)


def too_large(limit_bytes: int) -> ApiError:
    return ApiError(
        413,
        f"The request body is larger than the {limit_bytes} bytes that this server reads.",
        code=FailureCode.REQUEST_TOO_LARGE,
    )


def overloaded(message: str, retry_after_s: float, code: str = FailureCode.OVERLOADED) -> ApiError:
    """429: too many requests for what is there."""
    return ApiError(429, message, type="rate_limit_error", code=code, retry_after_s=retry_after_s)


def unavailable(message: str, retry_after_s: float, code: str = "unavailable") -> ApiError:
    """503: something is missing and may come back."""
    return ApiError(503, message, type="server_error", code=code, retry_after_s=retry_after_s)


def internal(message: str, code: str = FailureCode.INTERNAL_ERROR) -> ApiError:
    return ApiError(500, message, type="server_error", code=code)


def events_lost(reason: Exception) -> ApiError:
    return unavailable(f"Part of the answer was lost on its way: {reason}.", 1.0, FailureCode.EVENTS_LOST)
