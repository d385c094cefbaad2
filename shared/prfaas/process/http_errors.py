"""Errors of the HTTP server itself, below any application, in the shape of all others."""

import json
from http import HTTPStatus

from prfaas.contracts.codes import RETRY_STATUSES, FailureCode
from prfaas.process.request_ids import new_request_id


def error_response(status: int, code: FailureCode | None, message: str) -> bytes:
    """Returns the whole response, after which the connection closes."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "content-type: application/json", "connection: close"]
    lines += [f"content-length: {len(body)}", f"x-request-id: {new_request_id()}"]
    lines.append("x-should-retry: false" if status not in RETRY_STATUSES else "retry-after: 1")
    return "\r\n".join([*lines, "", ""]).encode() + body
