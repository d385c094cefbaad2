"""Errors in Anthropic's shape."""

from typing import Final

from prfaas.contracts.codes import FailureCode
from prfaas_gateway.anthropic.types import MessageError, MessageErrorResponse
from prfaas_gateway.openai.errors import ApiError

_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: FailureCode.REQUEST_TOO_LARGE.value,  # Anthropic's name of it too
    429: "rate_limit_error",
    503: "overloaded_error",
}
"""Name of an error by its status; other statuses are of the request below 500, and of the server from there on."""


def error_body(error: ApiError) -> MessageErrorResponse:
    kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return MessageErrorResponse(error=MessageError(type=kind, message=error.body.message))
