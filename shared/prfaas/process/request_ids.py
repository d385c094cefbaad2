"""Ids of requests: header, rule and default."""

import uuid
from typing import Final

from starlette.types import Scope

REQUEST_ID_HEADER: Final = "x-request-id"
MAX_REQUEST_ID_CHARS: Final = 256


def request_id_of(scope: Scope) -> str:
    request_id: str = scope["state"]["request_id"]
    return request_id


def is_request_id(text: str) -> bool:
    return 0 < len(text) <= MAX_REQUEST_ID_CHARS and text.isascii() and text.isprintable()


def new_request_id() -> str:
    return uuid.uuid4().hex
