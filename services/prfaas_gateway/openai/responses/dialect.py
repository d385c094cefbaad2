"""The words of `/v1/responses`."""

from typing import Final

from prfaas_gateway.dialect import Asked
from prfaas_gateway.openai.errors import ApiError, renamed
from prfaas_gateway.openai.progress import Progress
from prfaas_gateway.openai.responses.answers import StreamedResponse, WholeResponse
from prfaas_gateway.openai.responses.requests import ResponsesRequest, parse_responses
from prfaas_gateway.openai.unknown_fields import UnknownFields

NAMES: Final = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "response_format.json_schema": "text.format",
    "tool_choice.function": "tool_choice",
}
"""Names of a chat's fields here, where they differ."""


class ResponsesDialect:
    ping = b""

    def parse(self, body: bytes, unknown: UnknownFields | None = None) -> ResponsesRequest:
        """Puts fields that no API has into `unknown`; None: refuses them. Raises ApiError."""
        return parse_responses(body, unknown)

    def streamed(self, asked: Asked, progress: Progress) -> StreamedResponse:
        return StreamedResponse(asked, progress)

    def whole(self, asked: Asked, progress: Progress) -> WholeResponse:
        return WholeResponse(asked, progress)

    def error(self, error: ApiError) -> bytes:
        return renamed(error, NAMES).encode()


RESPONSES: Final = ResponsesDialect()
